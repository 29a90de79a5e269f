//! A mixture of experts: many gated MLPs, of which a router chooses a few for each position.
//!
//! How many positions an expert gets depends on all the others at hand, and the bits of a matrix product's row depend on how many rows the
//! product has (on a CPU with AVX-512, those of fewer than four differ). So each expert is given its rows in chunks of a constant number, of which the last is filled up with copies: every product
//! has the same size whatever the company, and a row's bits are its own. An expert adds to a row at most once, and experts follow each
//! other by their numbers, so that the order of a row's sum is its own, too. What that costs: half a chunk is filled up, on average, for each
//! expert that has rows at all, and an expert's weights are fetched once for each of its chunks.

use tch::{Device, Kind, Tensor};

use super::{GatedMlp, Linear, Loader};
use crate::model::config::Activation;
use crate::model::error::Result;

/// Rows of a chunk. With fewer the weights are fetched more often; with more, most would be copies where experts are many and small: a tile
/// of 128 rows and 8 of 128 experts for each gives an expert 8 rows.
const CHUNK_ROWS: usize = 16;

/// How experts are chosen and weighed.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Routing {
    /// Experts of a position.
    pub(in crate::model) per_token: usize,
    /// Whether their weights are divided by their sum.
    pub(in crate::model) normalized: bool,
    /// Whether their weights are rounded to the model's dtype; float32 otherwise.
    pub(in crate::model) rounded: bool,
}

/// An MLP made of experts. `mlp_post` it has not: each position goes through neurons of its own.
pub(in crate::model) struct Experts {
    /// `[expert, d_model]`
    router: Linear,
    experts: Vec<GatedMlp>,
    routing: Routing,
}

/// The rows of one expert, as many as fit a chunk.
struct Chunk {
    expert: usize,
    /// How many of them are no copies.
    count: usize,
}

/// Who goes where: row r's choice of rank i is the pair r · `per_token` + i.
struct Plan {
    /// By expert, ascending.
    chunks: Vec<Chunk>,
    /// The pairs of each chunk, one chunk after another, `[chunks · CHUNK_ROWS]` int64.
    pairs: Tensor,
    /// The rows of the same.
    rows: Tensor,
}

impl Plan {
    /// Of the experts that each pair goes to, of so many.
    fn new(chosen: &[i64], experts: usize, per_token: usize, device: Device) -> Result<Self> {
        let mut pairs_of = vec![Vec::new(); experts];
        for (pair, expert) in chosen.iter().enumerate() {
            pairs_of[*expert as usize].push(pair as i64);
        }
        let (mut chunks, mut pairs) = (Vec::new(), Vec::<i64>::new());
        for (expert, members) in pairs_of.iter().enumerate() {
            for members in members.chunks(CHUNK_ROWS) {
                let filled = members.iter().chain(std::iter::repeat(&members[0]));
                pairs.extend(filled.take(CHUNK_ROWS));
                let count = members.len();
                chunks.push(Chunk { expert, count });
            }
        }
        let rows: Vec<i64> = pairs.iter().map(|pair| pair / per_token as i64).collect();
        Ok(Plan {
            chunks,
            pairs: Tensor::f_from_slice(&pairs)?.f_to_device(device)?,
            rows: Tensor::f_from_slice(&rows)?.f_to_device(device)?,
        })
    }
}

impl Experts {
    /// Of `count` experts, whose projections `names` says: gate, up, down.
    pub(in crate::model) fn load(
        loader: &Loader<'_>,
        router: &str,
        count: usize,
        names: impl Fn(usize) -> [String; 3],
        (routing, activation): (Routing, Activation),
    ) -> Result<Self> {
        let expert = |number| {
            let [gate, up, down] = names(number);
            Ok(GatedMlp {
                gate_proj: loader.linear(&gate)?,
                up_proj: loader.linear(&up)?,
                down_proj: loader.linear(&down)?,
                activation,
            })
        };
        Ok(Experts {
            router: loader.linear(router)?,
            experts: (0..count).map(expert).collect::<Result<_>>()?,
            routing,
        })
    }

    /// Of the norm's output `[B, S, d_model]`.
    pub(in crate::model) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let size = x.size();
        let rows = x.f_reshape([-1, size[size.len() - 1]])?;
        let (weights, chosen) = self.route(&rows)?;
        let per_token = self.routing.per_token;
        let plan = Plan::new(&chosen, self.experts.len(), per_token, x.device())?;
        let mut sum = rows.f_zeros_like()?;
        for (number, chunk) in plan.chunks.iter().enumerate() {
            let start = (number * CHUNK_ROWS) as i64;
            let part = |of: &Tensor| of.f_narrow(0, start, CHUNK_ROWS as i64);
            let (at, pairs) = (part(&plan.rows)?, part(&plan.pairs)?);
            let expert = &self.experts[chunk.expert];
            let post = expert.post(&rows.f_index_select(0, &at)?)?;
            let weighed = expert
                .down_proj
                .forward(&post)?
                .f_mul(&weights.f_index_select(0, &pairs)?)?
                .f_to_kind(sum.kind())?;
            let count = chunk.count as i64;
            let (at, weighed) = (at.f_narrow(0, 0, count)?, weighed.f_narrow(0, 0, count)?);
            let _ = sum.f_index_add_(0, &at, &weighed)?;
        }
        Ok(sum.f_view(size.as_slice())?)
    }

    /// Each row's experts, those of the highest probability, and their weights `[n · per_token, 1]`, from `x [n, d_model]`. Of equal
    /// probabilities the expert of the lowest number comes first, which transformers leaves open.
    fn route(&self, x: &Tensor) -> Result<(Tensor, Vec<i64>)> {
        let probabilities = self.router.forward(x)?.f_softmax(-1, Kind::Float)?;
        let (sorted, experts) = probabilities.f_sort_stable(true, -1, true)?;
        let most = |of: &Tensor| of.f_narrow(1, 0, self.routing.per_token as i64);
        let mut weights = most(&sorted)?.f_contiguous()?;
        if self.routing.normalized {
            weights = weights.f_div(&weights.f_sum_dim_intlist(-1i64, true, None)?)?;
        }
        if self.routing.rounded {
            weights = weights.f_to_kind(x.kind())?;
        }
        let chosen = most(&experts)?.f_contiguous()?.f_view(-1i64)?;
        let chosen = chosen.f_to_device(Device::Cpu)?;
        Ok((weights.f_view([-1, 1])?, Vec::<i64>::try_from(chosen)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: i64 = 20;
    const ROWS: i64 = 128;

    fn random(size: [i64; 2]) -> Tensor {
        Tensor::randn(size, (Kind::Float, Device::Cpu))
    }

    fn linear(rows: i64, columns: i64) -> Linear {
        Linear {
            weight: random([rows, columns]),
            bias: None,
        }
    }

    fn experts(count: usize, per_token: usize) -> Experts {
        let expert = |_| GatedMlp {
            gate_proj: linear(13, WIDTH),
            up_proj: linear(13, WIDTH),
            down_proj: linear(WIDTH, 13),
            activation: Activation::Silu,
        };
        Experts {
            router: linear(count as i64, WIDTH),
            experts: (0..count).map(expert).collect(),
            routing: Routing {
                per_token,
                normalized: true,
                rounded: false,
            },
        }
    }

    /// Every expert for every row, times the weight that the row has for it.
    fn plainly(experts: &Experts, x: &Tensor) -> Tensor {
        let probabilities = experts.router.forward(x).unwrap().softmax(-1, Kind::Float);
        let (top, chosen) = probabilities.topk(experts.routing.per_token as i64, -1, true, true);
        let top = &top / top.sum_dim_intlist(-1i64, true, None);
        let mut sum = x.zeros_like();
        for (number, expert) in experts.experts.iter().enumerate() {
            let y = expert.down_proj.forward(&expert.post(x).unwrap()).unwrap();
            let own = chosen.eq(number as i64).to_kind(Kind::Float);
            sum += y * (own * &top).sum_dim_intlist(-1i64, true, None);
        }
        sum
    }

    #[test]
    fn the_chosen_experts_are_added_up() {
        tch::manual_seed(1);
        for (count, per_token) in [(1, 1), (4, 2), (9, 9), (50, 3)] {
            let experts = experts(count, per_token);
            let x = random([ROWS, WIDTH]);
            let found = experts.forward(&x.view([2, 64, WIDTH])).unwrap();
            assert_eq!(found.size(), [2, 64, WIDTH]);
            let expected = plainly(&experts, &x);
            let worst = (found.view([ROWS, WIDTH]) - &expected).abs().max() / expected.abs().max();
            assert!(f64::try_from(worst).unwrap() < 1e-6);
        }
    }

    /// Among rows that all choose as it does, among others, at another place, beside one that is not finite.
    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        tch::manual_seed(2);
        for (count, per_token) in [(4, 2), (16, 5)] {
            let experts = experts(count, per_token);
            let row = random([1, WIDTH]);
            let alike = row.repeat([ROWS, 1]);
            let expected = experts.forward(&alike).unwrap().get(0);
            for place in [0, 1, 77, ROWS - 1] {
                let company = random([ROWS, WIDTH]);
                let _ = company.get((place + 5) % ROWS).fill_(f64::NAN);
                company.get(place).copy_(&row.get(0));
                let found = experts.forward(&company).unwrap();
                assert!(found.get(place).equal(&expected));
                assert!(experts.forward(&alike).unwrap().get(place).equal(&expected));
                let spoiled = found.isfinite().logical_not().any_dim(1, false);
                assert_eq!(i64::try_from(spoiled.sum(Kind::Int64)).unwrap(), 1);
            }
        }
    }

    #[test]
    fn of_equal_experts_the_first_are_chosen() {
        let mut experts = experts(6, 2);
        experts.router.weight = Tensor::zeros([6, WIDTH], (Kind::Float, Device::Cpu));
        let (weights, chosen) = experts.route(&random([3, WIDTH])).unwrap();
        assert_eq!(chosen, [0, 1, 0, 1, 0, 1]);
        assert!(weights.equal(&weights.full_like(0.5)));
    }
}
