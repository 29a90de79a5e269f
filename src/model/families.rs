//! The families of models that are computed here: a file for each, and a line in the list below.
//!
//! A family's file says how its configuration is read, what its parameters are called and how large they are, and how a block is computed, in
//! plain tensor operations built of shared parts (`transformer::parts`); `docs/families.md` says how to add one. Nothing outside the file
//! asks which family a model is of.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Json;

use super::config::{Fields, ModelConfig, Sizes};
use super::error::Result;
use super::hooks::Site;
use super::transformer::{Loader, Network};

/// A parameter: its name in Hugging Face checkpoints and its shape.
pub(super) type Parameter = (String, Vec<usize>);

/// A linear map by which a block adds to the stream: its name, without `.weight`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Writer {
    pub(super) module: String,
    pub(super) form: WriterForm,
}

/// How the matrix of a [`Writer`] is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriterForm {
    /// `[d_model, in]`
    Linear,
    /// `[in, d_model]`, as GPT-2's `Conv1D`.
    Conv1d,
    /// As `Linear`, of one expert among several, which transformers holds as one tensor.
    Expert,
}

/// Why no matrices are [`Writer`]s where what they give is normalized before it is added.
const NORMALIZED: &str = "what attention and MLP give is normalized before it is added to the stream, which no change of their matrices ablates";

/// What a family's file says of a model: its constants and switches, which the sizes do not hold.
trait Architecture: Sized + Serialize {
    /// `model_type` in `config.json`, and `general.architecture` in GGUF files.
    const NAME: &'static str;
    /// What `architectures` in `config.json` may name: the class with a head, and the one without, whose head may be its embedding.
    const CLASSES: [&'static str; 2];

    /// Reads a configuration.
    ///
    /// # Errors
    /// A fragment that names the field.
    fn read(fields: &Fields) -> Result<(Sizes, Self), String>;

    /// Whether the numbers fit together. The error is a fragment.
    fn validate(&self, sizes: &Sizes) -> Result<(), String>;

    /// What stands before the names of the transformer's parameters.
    fn prefix(&self) -> &'static str {
        "model."
    }

    /// What the parameter is called here that a Hugging Face folder calls `name`; none for one that has no part in text.
    fn renamed(&self, name: &str) -> Option<String> {
        Some(name.to_string())
    }

    /// The name of the unembedding's matrix, where it is not the embedding's.
    fn head(&self) -> &'static str {
        "lm_head.weight"
    }

    /// The parameters outside the blocks, the embedding first: those before the first, and those behind the last.
    fn end_parameters(&self, sizes: &Sizes) -> (Vec<Parameter>, Vec<Parameter>) {
        let prefix = self.prefix();
        let embedding = vec![sizes.d_vocab, sizes.d_model];
        let mut last = vec![(format!("{prefix}norm.weight"), vec![sizes.d_model])];
        if !sizes.tied_embeddings {
            last.push((self.head().to_string(), embedding.clone()));
        }
        (
            vec![(format!("{prefix}embed_tokens.weight"), embedding)],
            last,
        )
    }

    /// The parameters of a block.
    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter>;

    /// Whether a block has this site; all but parallel and mixture-of-experts blocks have every one.
    fn has(&self, _layer: usize, _site: Site) -> bool {
        true
    }

    /// Neurons that a position goes through in a layer's MLP, those of all the experts chosen for it where there are experts. As wide is
    /// `mlp_post`, where a block has it.
    fn neurons(&self, sizes: &Sizes, _layer: usize) -> usize {
        sizes.d_mlp
    }

    /// The maps by which a block adds to the stream. What they give must be added as it is, or times a number.
    ///
    /// # Errors
    /// Why it is not.
    fn writers(&self, _sizes: &Sizes, layer: usize) -> Result<Vec<Writer>, &'static str> {
        let block = format!("model.layers.{layer}");
        Ok(linear_writers(
            &block,
            ["self_attn.o_proj", "mlp.down_proj"],
        ))
    }

    /// Loads the weights.
    fn load(&self, loader: &Loader<'_>) -> Result<Network>;

    /// The form of the configuration that fingerprints are made of.
    fn serialize_with<S: Serializer>(
        &self,
        sizes: &Sizes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Form<'f, F> {
            architecture: &'static str,
            #[serde(flatten)]
            sizes: &'f Sizes,
            #[serde(flatten)]
            family: &'f F,
        }
        let form = Form {
            architecture: Self::NAME,
            sizes,
            family: self,
        };
        form.serialize(serializer)
    }
}

macro_rules! families {
    ($($module:ident::$Type:ident),+ $(,)?) => {
        $(mod $module;)+
        $(pub use $module::$Type;)+

        /// A model's family, and what its file knows of the model.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Family {
            $($Type($Type)),+
        }

        impl Family {
            const NAMES: &'static [&'static str] = &[$($Type::NAME),+];

            /// Reads the configuration of a model of that name, with its classes; none for a family that is not there.
            pub(super) fn read(
                name: &str,
                fields: &Fields,
            ) -> Option<([&'static str; 2], Result<ModelConfig, String>)> {
                match name {
                    $($Type::NAME => {
                        let read = $Type::read(fields);
                        let family = Family::$Type;
                        let read = read.map(|(sizes, of)| ModelConfig { sizes, family: family(of) });
                        Some(($Type::CLASSES, read))
                    })+
                    _ => None,
                }
            }

            /// Reads what [`Family::serialize_with`] writes of a family of that name; none for a family that is not there.
            pub(super) fn read_form(name: &str, form: &Json) -> Option<serde_json::Result<Self>> {
                match name {
                    $($Type::NAME => Some($Type::deserialize(form).map(Family::$Type)),)+
                    _ => None,
                }
            }

            /// As `config.json` calls it.
            pub(crate) fn name(&self) -> &'static str {
                match self { $(Family::$Type(_) => $Type::NAME),+ }
            }

            pub(super) fn validate(&self, sizes: &Sizes) -> Result<(), String> {
                match self { $(Family::$Type(of) => of.validate(sizes)),+ }
            }

            pub(super) fn renamed(&self, name: &str) -> Option<String> {
                match self { $(Family::$Type(of) => of.renamed(name)),+ }
            }

            pub(super) fn head(&self) -> &'static str {
                match self { $(Family::$Type(of) => of.head()),+ }
            }

            pub(super) fn end_parameters(&self, sizes: &Sizes) -> (Vec<Parameter>, Vec<Parameter>) {
                match self { $(Family::$Type(of) => of.end_parameters(sizes)),+ }
            }

            pub(super) fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
                match self { $(Family::$Type(of) => of.block_parameters(sizes, layer)),+ }
            }

            pub(crate) fn has(&self, layer: usize, site: Site) -> bool {
                match self { $(Family::$Type(of) => of.has(layer, site)),+ }
            }

            pub(crate) fn neurons(&self, sizes: &Sizes, layer: usize) -> usize {
                match self { $(Family::$Type(of) => of.neurons(sizes, layer)),+ }
            }

            pub(super) fn writers(
                &self,
                sizes: &Sizes,
                layer: usize,
            ) -> Result<Vec<Writer>, &'static str> {
                match self { $(Family::$Type(of) => of.writers(sizes, layer)),+ }
            }

            pub(super) fn load(&self, loader: &Loader<'_>) -> Result<Network> {
                match self { $(Family::$Type(of) => of.load(loader)),+ }
            }

            pub(super) fn serialize_with<S: Serializer>(
                &self,
                sizes: &Sizes,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                match self { $(Family::$Type(of) => of.serialize_with(sizes, serializer)),+ }
            }
        }
    };
}

families! {
    cohere2::Cohere2,
    gemma::Gemma,
    gemma2::Gemma2,
    gemma3::Gemma3,
    gemma3_text::Gemma3Text,
    glm4::Glm4,
    gpt2::Gpt2,
    gpt_neox::GptNeoX,
    granite::Granite,
    llama::Llama,
    mistral::Mistral,
    mixtral::Mixtral,
    olmo2::Olmo2,
    olmo3::Olmo3,
    phi3::Phi3,
    qwen2::Qwen2,
    qwen3::Qwen3,
    qwen3_moe::Qwen3Moe,
    smollm3::SmolLm3,
    stablelm::StableLm,
}

impl Family {
    /// The families, as error messages list them.
    pub(super) fn supported() -> String {
        format!("`{}`", Self::NAMES.join("`, `"))
    }
}

/// `weight` and, where it has one, `bias` of a linear map.
fn linear(name: String, [rows, columns]: [usize; 2], bias: bool) -> Vec<Parameter> {
    let mut parameters = vec![(format!("{name}.weight"), vec![rows, columns])];
    if bias {
        parameters.push((format!("{name}.bias"), vec![rows]));
    }
    parameters
}

/// The projections of a block's attention to queries, keys and values, one each, and that of its output, and whether either have biases.
fn attention_parameters(
    block: &str,
    sizes: &Sizes,
    [qkv_bias, output_bias]: [bool; 2],
) -> Vec<Parameter> {
    let d_model = sizes.d_model;
    let (d_query, d_key) = (
        sizes.n_heads * sizes.d_head,
        sizes.n_kv_heads * sizes.d_head,
    );
    let matrices = [
        ("q_proj", [d_query, d_model], qkv_bias),
        ("k_proj", [d_key, d_model], qkv_bias),
        ("v_proj", [d_key, d_model], qkv_bias),
        ("o_proj", [d_model, d_query], output_bias),
    ];
    let linear = |(name, shape, bias)| linear(format!("{block}.self_attn.{name}"), shape, bias);
    matrices.into_iter().flat_map(linear).collect()
}

/// The projections of an MLP that has a gate.
fn gated_mlp_parameters(module: &str, sizes: &Sizes, bias: bool) -> Vec<Parameter> {
    let (d_model, d_mlp) = (sizes.d_model, sizes.d_mlp);
    let matrices = [
        ("gate_proj", [d_mlp, d_model]),
        ("up_proj", [d_mlp, d_model]),
        ("down_proj", [d_model, d_mlp]),
    ];
    let linear = |(name, shape)| linear(format!("{module}.{name}"), shape, bias);
    matrices.into_iter().flat_map(linear).collect()
}

/// Maps of a block that are stored as `[d_model, in]`.
fn linear_writers(block: &str, names: [&str; 2]) -> Vec<Writer> {
    let writer = |name| Writer {
        module: format!("{block}.{name}"),
        form: WriterForm::Linear,
    };
    names.map(writer).into()
}

/// The output of a llama's attention, and the last maps of experts.
fn experts_writers(block: &str, experts: impl Iterator<Item = String>) -> Vec<Writer> {
    let attention = Writer {
        module: format!("{block}.self_attn.o_proj"),
        form: WriterForm::Linear,
    };
    let experts = experts.map(|module| Writer {
        module,
        form: WriterForm::Expert,
    });
    [attention].into_iter().chain(experts).collect()
}

/// `weight` and `bias` of a layer norm.
fn layer_norm(name: &str, width: usize) -> Vec<Parameter> {
    let part = |part: &str| (format!("{name}.{part}"), vec![width]);
    vec![part("weight"), part("bias")]
}

/// Refuses heads that do not make up the stream, for a family that has no such. The error is a fragment.
fn plain_heads(sizes: &Sizes) -> Result<(), String> {
    let (width, heads) = (sizes.d_head, sizes.n_heads);
    match width * heads == sizes.d_model {
        true => Ok(()),
        false => Err(format!(
            "`head_dim` is `{width}`, expected `hidden_size`, which is `{}`, over the `{heads}` heads: this family has no other",
            sizes.d_model
        )),
    }
}

/// How many experts a layer has. Transformers knows the number by both names, and takes the first of them where a file has both.
fn n_experts(fields: &Fields, absent: usize) -> Result<usize, String> {
    let (first, second) = (
        fields.count("num_local_experts")?,
        fields.count("num_experts")?,
    );
    Ok(first.or(second).unwrap_or(absent))
}

/// Whether there are experts, and as many as each position is to have. The error is a fragment.
fn check_experts((name, count): (&str, usize), per_token: usize) -> Result<(), String> {
    let most = 1 << 12;
    if count == 0 || count > most {
        return Err(format!("`{name}` is `{count}`, expected 1 to {most}"));
    }
    match (1..=count).contains(&per_token) {
        true => Ok(()),
        false => Err(format!(
            "`num_experts_per_tok` is `{per_token}`, expected 1 to `{name}`, which is `{count}`"
        )),
    }
}

/// A small configuration of a family, read with some fields changed, or left out where they are given as `"absent"`.
#[cfg(test)]
fn read_changed(model_type: &str, changes: serde_json::Value) -> Result<ModelConfig, String> {
    let mut config = serde_json::json!({
        "model_type": model_type, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 100, "eos_token_id": 7,
    });
    if let (Some(config), serde_json::Value::Object(changes)) = (config.as_object_mut(), changes) {
        config.extend(changes);
        config.retain(|_, value| value != "absent");
    }
    let path = std::path::Path::new("config.json");
    let read = ModelConfig::from_hugging_face(path, &config.to_string(), None);
    read.map_err(|error| error.to_string())
}

#[cfg(test)]
impl ModelConfig {
    /// What a llama or a qwen2 is besides its sizes.
    pub(super) fn llama(&mut self) -> &mut Llama {
        match &mut self.family {
            Family::Llama(llama) | Family::Qwen2(Qwen2(llama)) => llama,
            other => panic!("a `{}` is no llama", other.name()),
        }
    }
}
