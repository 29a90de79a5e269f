//! A file's vectors held against the model that they are to steer: where each of them is, how long it was, and what does not fit.

use crate::model::{ModelConfig, Site};
use crate::spec::{Layers, Spanned};

use super::read::{Read, Vector, Vectors, Writer};

/// How far from 1 the length of a vector may be that was made 1 and written in float32.
const ROUNDING: f64 = 1e-5;

/// A vector at its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    pub(super) layer: usize,
    pub(super) site: Site,
    /// Of length 1.
    pub(super) unit: Vec<f32>,
    /// In the file.
    pub(super) length: f64,
    pub(super) tensor: String,
    /// The share of the variance that it explains, as the file says.
    pub(super) explained: Option<f64>,
}

/// A vector at a layer and site.
type At<'v> = (usize, Site, &'v Vector);

/// The vectors that a model can have, and what to say of the others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fitted {
    pub(super) placed: Vec<Placed>,
    pub(super) findings: Vec<String>,
}

/// What a study says of a file's vectors.
pub(super) struct Asked<'a> {
    /// Name of the file.
    pub(super) file: &'a str,
    pub(super) layer: Option<&'a Layers>,
    pub(super) site: Option<Site>,
}

impl Asked<'_> {
    /// Where each vector is in a model, and which are there.
    ///
    /// # Errors
    /// All that does not fit.
    pub(super) fn fit(&self, read: &Read, model: &ModelConfig) -> Result<Fitted, Vec<String>> {
        let (vectors, mut findings) = self
            .places(&read.vectors, model)
            .map_err(|error| vec![error])?;
        let (vectors, beyond) = self.chosen(vectors, model)?;
        findings.extend(beyond);
        let width = model.d_model;
        let (mut placed, mut problems) = (Vec::new(), Vec::new());
        for (layer, site, vector) in vectors {
            match unit(vector, width) {
                Ok((unit, length)) => placed.push(Placed {
                    layer,
                    site,
                    unit,
                    length,
                    tensor: vector.tensor.clone(),
                    explained: vector.explained,
                }),
                Err(problem) => {
                    problems.push(format!("`{}` of `{}` {problem}", vector.tensor, self.file))
                }
            }
        }
        match problems.is_empty() {
            true => Ok(Fitted { placed, findings }),
            false => Err(problems),
        }
    }

    /// The layer and site of each vector, whether the model has them or not, and what to say of all.
    fn places<'v>(
        &self,
        vectors: &'v Vectors,
        model: &ModelConfig,
    ) -> Result<(Vec<At<'v>>, Vec<String>), String> {
        let file = self.file;
        let site = |said: &Option<Site>| match (self.site, said) {
            (Some(asked), Some(said)) if asked != *said => Err(format!(
                "`{file}` says that it is of `{}`, and the study of `{}`; take `site` out",
                said.short_name(),
                asked.short_name()
            )),
            (asked, said) => Ok(asked.or(*said).unwrap_or(Site::ResidPre)),
        };
        match vectors {
            Vectors::One {
                vector,
                layer,
                site: said,
            } => Ok((
                vec![(self.layer_of_one(*layer)?, site(said)?, vector)],
                Vec::new(),
            )),
            Vectors::Rows { rows, site: said } => {
                let (there, layers) = (rows.len(), model.n_layers);
                if there != layers && there != layers + 1 {
                    return Err(format!(
                        "`{file}` has {there} rows, expected one for each of {layers} layers (or one more, as `hidden_states` has); write the vector \
                         of a layer as a tensor of one axis"
                    ));
                }
                let last = (there > layers).then(|| {
                    format!(
                        "the last row of `{file}`, {layers}, is left out: `hidden_states` has the stream behind the final norm there, which is no site of a layer"
                    )
                });
                let site = site(said)?;
                let rows = rows.iter().take(layers).enumerate();
                Ok((
                    rows.map(|(row, vector)| (row, site, vector)).collect(),
                    last.into_iter().collect(),
                ))
            }
            Vectors::Outputs { by_block, by } => {
                let (site, next) = match self.site {
                    None | Some(Site::ResidPost) => (Site::ResidPost, 0),
                    Some(Site::ResidPre) => (Site::ResidPre, 1),
                    Some(other) => {
                        return Err(format!(
                            "the vectors of `{file}` are of what blocks give, `resid_post`, which is `resid_pre` of the next, and not of `{}`",
                            other.short_name()
                        ));
                    }
                };
                let at = by_block
                    .iter()
                    .map(|(block, vector)| (block + next, site, vector));
                let skew = (*by == Writer::Cast).then(|| {
                    let here = match next {
                        0 => "`resid_post` of that layer",
                        _ => "`resid_pre` of the next",
                    };
                    format!(
                        "the vectors of `{file}` are taken for what they were read from, the output of a layer: {here}; CAST itself adds them at the \
                         layer's input, one layer before that"
                    )
                });
                Ok((at.collect(), skew.into_iter().collect()))
            }
        }
    }

    /// The layer of a file's only vector.
    fn layer_of_one(&self, said: Option<usize>) -> Result<usize, String> {
        let asked = match self.layer {
            Some(Layers::List(list)) => list.iter().map(|layer| layer.value).collect(),
            _ => Vec::new(),
        };
        match (asked.as_slice(), said) {
            ([], None) => Err(format!(
                "`{}` does not say at which layer its vector is; say it with `layer`",
                self.file
            )),
            ([], Some(layer)) => Ok(layer),
            ([asked], Some(said)) if *asked != said => Err(format!(
                "`{}` says that it is of layer {said}, and the study of layer {asked}; take `layer` out",
                self.file
            )),
            ([layer], _) => Ok(*layer),
            (several, _) => Err(format!(
                "`{}` has one vector, and `layer` names {} layers; name its own here, and others where it acts",
                self.file,
                several.len()
            )),
        }
    }

    /// Those at the layers that are asked for; all that the model has where none are, and what to say of the others.
    fn chosen<'v>(
        &self,
        vectors: Vec<At<'v>>,
        model: &ModelConfig,
    ) -> Result<(Vec<At<'v>>, Option<String>), Vec<String>> {
        let layers = model.n_layers;
        let list: Option<&[Spanned<usize>]> = match self.layer {
            Some(Layers::List(list)) => Some(list),
            _ => None,
        };
        if let Some(list) = list {
            let find = |layer: usize| {
                vectors
                    .iter()
                    .find(|(at, ..)| *at == layer && layer < layers)
            };
            let found = list.iter().map(|layer| find(layer.value).copied());
            let missing = list.iter().filter(|layer| find(layer.value).is_none());
            let problems: Vec<String> = missing
                .map(|layer| {
                    let there: Vec<String> = vectors.iter().map(|(at, ..)| at.to_string()).collect();
                    format!(
                        "`{}` has no vector for layer {} of a model of {layers} layers; it has some for {}",
                        self.file,
                        layer.value,
                        there.join(", ")
                    )
                })
                .collect();
            return match problems.is_empty() {
                true => Ok((found.flatten().collect(), None)),
                false => Err(problems),
            };
        }
        let (there, beyond): (Vec<_>, Vec<_>) =
            vectors.into_iter().partition(|(at, ..)| *at < layers);
        let numbers: Vec<String> = beyond.iter().map(|(at, ..)| at.to_string()).collect();
        match there.is_empty() {
            true => Err(vec![format!(
                "`{}` has no vector for a layer of the model, which has {layers}; it has some for {}",
                self.file,
                numbers.join(", ")
            )]),
            false => Ok((
                there,
                (!beyond.is_empty()).then(|| {
                    format!(
                        "vectors of `{}` are left out, of layers that the model does not have: {}",
                        self.file,
                        numbers.join(", ")
                    )
                }),
            )),
        }
    }
}

/// The vector with length 1, and the length that it has. The error is a fragment.
fn unit(vector: &Vector, width: usize) -> Result<(Vec<f32>, f64), String> {
    let values = &vector.values;
    if values.len() != width {
        return Err(format!(
            "has {} numbers, and the model's stream {width}",
            values.len()
        ));
    }
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(format!(
            "has `{}` at index {index}, expected a finite number",
            values[index]
        ));
    }
    let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let length = norm * vector.was.unwrap_or(1.0);
    // What was made 1 stays as it is, to the bit.
    let norm = match vector.was {
        Some(_) if (norm - 1.0).abs() < ROUNDING => 1.0,
        _ => norm,
    };
    let is_sound = |length: f64| length.is_finite() && length > 0.0;
    if !is_sound(norm) || !is_sound(length) {
        return Err(format!(
            "is of length {length}, and so no direction; leave it out, naming the others with `layer`"
        ));
    }
    Ok((values.iter().map(|x| (x / norm) as f32).collect(), length))
}

#[cfg(test)]
mod tests {
    use super::super::read::MadeFor;
    use super::*;

    /// Of the width of a small model.
    fn vector(first: f64) -> Vector {
        let mut values = vec![0.0; ModelConfig::small().d_model];
        values[0] = first;
        Vector {
            tensor: "v".to_string(),
            values,
            was: None,
            explained: None,
        }
    }

    fn fit(
        vectors: Vectors,
        layer: Option<&Layers>,
        site: Option<Site>,
    ) -> Result<Fitted, Vec<String>> {
        let read = Read {
            made_for: MadeFor::default(),
            vectors,
        };
        let file = "file";
        Asked { file, layer, site }.fit(&read, &ModelConfig::small())
    }

    fn outputs(blocks: &[usize], by: Writer) -> Vectors {
        Vectors::Outputs {
            by_block: blocks.iter().map(|block| (*block, vector(2.0))).collect(),
            by,
        }
    }

    fn layers(fitted: &Fitted) -> Vec<(usize, Site)> {
        fitted.placed.iter().map(|p| (p.layer, p.site)).collect()
    }

    #[test]
    fn an_output_of_a_block_is_the_input_of_the_next() {
        // The model has six layers: block 6 is none of its, and behind block 5 is no other.
        let post = fit(outputs(&[1, 5, 6], Writer::LlamaCpp), None, None).unwrap();
        assert_eq!(layers(&post), [(1, Site::ResidPost), (5, Site::ResidPost)]);
        assert!(post.findings[0].contains("does not have: 6"), "{post:?}");
        let pre = fit(
            outputs(&[1, 5], Writer::LlamaCpp),
            None,
            Some(Site::ResidPre),
        )
        .unwrap();
        assert_eq!(layers(&pre), [(2, Site::ResidPre)]);
        let cast = fit(outputs(&[0], Writer::Cast), None, None).unwrap();
        assert_eq!(layers(&cast), [(0, Site::ResidPost)]);
        assert!(cast.findings[0].contains("one layer before"), "{cast:?}");
        let other = fit(outputs(&[1], Writer::Cast), None, Some(Site::MlpOut)).unwrap_err();
        assert!(other[0].contains("not of `mlp_out`"), "{other:?}");
    }

    #[test]
    fn rows_are_layers_and_what_lies_behind_the_final_norm_is_left_out() {
        let rows = |count: usize| Vectors::Rows {
            rows: (0..count).map(|row| vector(1.0 + row as f64)).collect(),
            site: None,
        };
        let fitted = fit(rows(7), None, None).unwrap();
        assert_eq!(fitted.placed.len(), 6);
        assert_eq!((fitted.placed[5].layer, fitted.placed[5].length), (5, 6.0));
        assert!(fitted.findings[0].contains("final norm"));
        assert!(fit(rows(5), None, None).unwrap_err()[0].contains("has 5 rows"));
    }

    #[test]
    fn what_is_no_direction_of_the_model_is_told_all_at_once() {
        let mut wrong = [vector(0.0), vector(f64::NAN), vector(1.0), vector(1.0)];
        wrong[2].values.pop();
        wrong[3].was = Some(0.0);
        let by_block = wrong.into_iter().enumerate().collect();
        let by = Writer::LlamaCpp;
        let problems = fit(Vectors::Outputs { by_block, by }, None, None).unwrap_err();
        let told = [
            "of length 0",
            "`NaN` at index 0",
            "has 7 numbers",
            "of length 0",
        ];
        assert_eq!(problems.len(), told.len(), "{problems:?}");
        for (problem, told) in problems.iter().zip(told) {
            assert!(problem.contains(told), "{problem}");
        }
    }

    #[test]
    fn a_vector_alone_is_where_file_or_study_says() {
        let one = |layer, site| Vectors::One {
            vector: vector(-3.0),
            layer,
            site,
        };
        assert!(fit(one(None, None), None, None).unwrap_err()[0].contains("say it with `layer`"));
        let fitted = fit(one(Some(4), Some(Site::ResidMid)), None, None).unwrap();
        assert_eq!(layers(&fitted), [(4, Site::ResidMid)]);
        assert_eq!(
            (fitted.placed[0].unit[0], fitted.placed[0].length),
            (-1.0, 3.0)
        );
        let other = fit(
            one(Some(1), Some(Site::ResidMid)),
            None,
            Some(Site::ResidPre),
        );
        assert!(other.unwrap_err()[0].contains("take `site` out"));
        assert!(
            fit(one(Some(6), None), None, None).unwrap_err()[0].contains("no vector for a layer")
        );
    }
}
