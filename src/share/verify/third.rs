//! The third level, from end to end: which models are here, how many cells are drawn, the cells computed, and what came of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Key;
use crate::machine;
use crate::model::{self, Cell, LoadedModel, ModelHandle, Value, Vector};
use crate::plan::{
    Environment, Fetch, Lock, ModelParts, Opened, Pins, PlanError, Selection, open_selected,
};
use crate::spec::{field_path, load};

use super::super::again::put_in_place;
use super::super::layout;
use super::draw::fresh_seed;
use super::drift::{Drift, Summary};
use super::follows::each_stage;
use super::outcome::Level;
use super::received::Received;
use super::recomputed::{Recomputed, Sample, Stratum, values};
use super::seen::{Kept, Known, layer_of};
use super::tolerance::Tolerance;
use super::{OnStep, Options, Step, Wanted};

/// What a draw takes about, where the reviewer does not say how many.
const ABOUT: Duration = Duration::from_secs(300);
/// Examples are computed for no longer than this, to learn how long a cell takes.
const TRIAL: Duration = Duration::from_secs(30);
/// Fewest cells of such a draw.
const FEWEST: u64 = 60;
/// A draw ends when it takes so much longer than was said.
const MOST_TIMES: u32 = 6;
/// Most tokens that a cell may generate to be computed.
const MOST_NEW_TOKENS: usize = 4096;

/// What there is to draw from, and to compute with.
pub(super) struct Third<'a> {
    pub(super) options: &'a Options,
    pub(super) received: &'a Received,
    /// The study with models that have no weights.
    pub(super) opened: &'a Opened,
    /// The lock of the author.
    pub(super) lock: &'a Lock,
    pub(super) known: Known,
    pub(super) level: &'a mut Level,
    pub(super) on_step: OnStep<'a>,
}

/// A model of this machine.
struct Here {
    handle: Arc<ModelHandle>,
    loaded: LoadedModel,
}

/// The cells that were drawn, and more.
struct Cells {
    kept: BTreeMap<Key, (Cell, Value)>,
    /// Cells of the activations that some of them take, by the hash that is stored.
    donors: HashMap<blake3::Hash, Cell>,
    /// Those activations as this machine gives them.
    vectors: HashMap<blake3::Hash, Arc<Vector>>,
    /// Of layers that no drawn cell is at.
    further: BTreeSet<Key>,
}

impl Third<'_> {
    /// Draws, computes and compares; none where nothing was.
    pub(super) fn check(mut self) -> Option<Recomputed> {
        if self.options.wanted == Wanted::So(0) {
            let asked = "nothing was computed again, as `--sample 0` asks";
            self.level.checked.push(asked.to_string());
            return None;
        }
        let mut models = self.models();
        self.keep_strata_of(&models);
        let stored: u64 = self.known.strata.iter().map(Stratum::count).sum();
        if stored == 0 {
            return None;
        }
        let seed = match self.options.seed.map_or_else(fresh_seed, Ok) {
            Ok(seed) => seed,
            Err(error) => {
                let why = format!("this machine gives no random numbers: {error}");
                self.level.not_checked("the draw", why);
                return None;
            }
        };
        let (wanted, expected) = self.wanted(&mut models, stored)?;
        let sample = Sample::of(self.known.strata.clone(), wanted, seed);
        let drawn: u64 = sample.drawn.iter().map(|keys| keys.len() as u64).sum();
        self.announce(drawn, stored, seed, expected);
        let cells = self.cells(&sample);
        let deadline = match self.options.wanted {
            Wanted::All => None,
            _ => Some(Instant::now() + expected.max(ABOUT) * MOST_TIMES),
        };
        self.compare(&sample, cells, &mut models, deadline)
    }

    /// The models that are on this machine and are those of the file, loaded. Of each other it is told why it is not.
    fn models(&mut self) -> BTreeMap<String, Here> {
        let mut here = BTreeMap::new();
        for (name, sent) in &self.opened.inputs.models {
            let said = self.options.models.get(name);
            let locked = self.lock.models.get(name);
            let of_hub = locked.filter(|model| model.source.starts_with("hf:"));
            let Some(source) = said.or(of_hub.map(|model| &model.source)) else {
                let why = format!(
                    "is not in the file; name it with `--model {name}=SOURCE`, and its values are computed again"
                );
                self.level.not_checked(format!("model `{name}`"), why);
                continue;
            };
            match self.model(name, source, sent) {
                Ok(model) => drop(here.insert(name.clone(), model)),
                Err(why) => self.level.not_checked(format!("model `{name}`"), why),
            }
        }
        let known = self.opened.inputs.models.keys();
        let known: BTreeSet<&String> = known.collect();
        for name in self
            .options
            .models
            .keys()
            .filter(|name| !known.contains(name))
        {
            let names: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
            let why = format!("no stage uses it; the study has `{}`", names.join("`, `"));
            self.level.not_checked(format!("model `{name}`"), why);
        }
        here
    }

    /// A model as the study opens it, but from another place.
    fn model(&self, name: &str, source: &str, sent: &ModelHandle) -> Result<Here, String> {
        let locked = self.lock.models.get(name);
        let is_hub = source.starts_with("hf:");
        let place = match is_hub {
            true => source.to_string(),
            false => std::path::absolute(source)
                .map_err(|error| error.to_string())?
                .to_string_lossy()
                .into_owned(),
        };
        let field = field_path("models", name);
        let given = format!("{field}.source={}", serde_json::Value::from(place));
        let path = self.received.folder.join(layout::STUDY);
        let document = load(&path, &[given]).map_err(|error| error.render(false))?;
        let commit = locked.and_then(|model| Some((model.source.clone(), model.commit.clone()?)));
        let pins: Pins = commit.into_iter().collect();
        let fetch = match self.options.fetch {
            true => Fetch::AsNeeded,
            false => Fetch::Never,
        };
        let opened = open_selected(
            document,
            &self.opened.study.name,
            &self.received.cache,
            fetch,
            &Selection::All,
            &pins,
        );
        let opened = opened.map_err(|error| match error {
            PlanError::Study(diagnostics) => diagnostics.render(false),
            other => other.to_string(),
        })?;
        let handle = opened.inputs.models.get(name).cloned();
        let handle = handle.ok_or_else(|| {
            "is not on this machine; `--fetch` fetches it from the hub".to_string()
        })?;
        if handle.fingerprint != sent.fingerprint {
            let (here, there) = (ModelParts::of(&handle), ModelParts::of(sent));
            let mut differs = Vec::new();
            for (part, same) in [
                ("weights", here.weights == there.weights),
                ("dtype", here.dtype == there.dtype),
                ("tokenizer", here.tokenizer == there.tokenizer),
                ("chat template", here.template == there.template),
            ] {
                if !same {
                    differs.push(part);
                }
            }
            if differs.is_empty() {
                differs.push("configuration");
            }
            return Err(format!(
                "`{source}` is another model than the one of the file ({} differ); name that one",
                differs.join(", ")
            ));
        }
        handle.check_weights().map_err(|error| error.to_string())?;
        let free = machine::memory().map(|memory| memory.available_bytes);
        let prefixes = free.map_or(1 << 30, |free| free / 4);
        let loaded = model::load(&handle, self.options.device, prefixes);
        let loaded = loaded.map_err(|error| error.to_string())?;
        Ok(Here { handle, loaded })
    }

    /// Keeps what can be computed here; of the rest it is told why it cannot.
    fn keep_strata_of(&mut self, models: &BTreeMap<String, Here>) {
        let known = std::mem::take(&mut self.known);
        let all = known
            .strata
            .into_iter()
            .zip(known.examples)
            .zip(known.at_layers);
        for ((stratum, examples), at_layers) in all {
            let place = format!("stage `{}`", stratum.stage);
            if !models.contains_key(&stratum.model) {
                continue;
            }
            if let Some(donor) = stratum
                .donors
                .iter()
                .find(|name| !models.contains_key(*name))
            {
                let why = format!("takes activations of model `{donor}`, which is not here");
                self.level.not_checked(place, why);
            } else if stratum.longest > MOST_NEW_TOKENS {
                let why = format!(
                    "generates up to {} tokens, and a check computes texts of up to {MOST_NEW_TOKENS}",
                    stratum.longest
                );
                self.level.not_checked(place, why);
            } else {
                self.known.strata.push(stratum);
                self.known.examples.push(examples);
                self.known.at_layers.push(at_layers);
            }
        }
    }

    /// How many cells are to be drawn, and about how long they take.
    fn wanted(
        &mut self,
        models: &mut BTreeMap<String, Here>,
        stored: u64,
    ) -> Option<(u64, Duration)> {
        let seconds = self.seconds_of_a_cell(models)?;
        let wanted = match self.options.wanted {
            Wanted::All => stored,
            Wanted::So(count) => count.min(stored),
            Wanted::FiveMinutes => {
                let count = (ABOUT.as_secs_f64() / seconds.max(1e-9)) as u64;
                count.max(FEWEST).min(stored)
            }
        };
        let expected = Duration::try_from_secs_f64(seconds * wanted as f64);
        Some((wanted, expected.unwrap_or(Duration::MAX / MOST_TIMES)))
    }

    /// Seconds that a drawn cell takes, on the average, by examples of each stratum.
    fn seconds_of_a_cell(&mut self, models: &mut BTreeMap<String, Here>) -> Option<f64> {
        let started = Instant::now();
        let (mut weighted, mut weights, mut last) = (0.0, 0.0, 0.0);
        // What is put into a run of an example is made up: it takes as long.
        for (stratum, examples) in self.known.strata.iter().zip(&self.known.examples) {
            let model = models.get_mut(&stratum.model)?;
            if started.elapsed() < TRIAL && !examples.is_empty() {
                let began = Instant::now();
                let computed = values(
                    &mut model.loaded,
                    examples,
                    &mut |_| match started.elapsed() < TRIAL * 2 {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    },
                );
                if let Err(error) = computed {
                    let place = format!("model `{}`", stratum.model);
                    self.level.not_checked(place, error.to_string());
                    return None;
                }
                last = began.elapsed().as_secs_f64() / examples.len() as f64;
            }
            weighted += last * stratum.count() as f64;
            weights += stratum.count() as f64;
        }
        Some(weighted / weights)
    }

    fn announce(&mut self, drawn: u64, stored: u64, seed: u64, expected: Duration) {
        (self.on_step)(Step::Drawn {
            drawn,
            stored,
            seed,
            expected,
        });
    }

    /// The cells drawn, with their stored values, and one at each layer that has none among them.
    fn cells(&self, sample: &Sample) -> Cells {
        let drawn: BTreeSet<Key> = sample.drawn.iter().flatten().copied().collect();
        let at_layers = self.known.at_layers.iter();
        let representatives = at_layers.flat_map(|layers| layers.values().copied());
        let wanted = drawn.iter().copied().chain(representatives).collect();
        let mut kept = Kept::new(wanted);
        each_stage(self.opened, self.received, &mut kept, &mut |_, _, _| {});
        let mut further = BTreeSet::new();
        for (keys, layers) in sample.drawn.iter().zip(&self.known.at_layers) {
            let cells = keys.iter().filter_map(|key| kept.cells.get(key));
            let covered: BTreeSet<usize> = cells.filter_map(|(cell, _)| layer_of(cell)).collect();
            let missing = layers.iter().filter(|(layer, _)| !covered.contains(layer));
            further.extend(missing.map(|(_, key)| *key));
        }
        kept.cells
            .retain(|key, _| drawn.contains(key) || further.contains(key));
        let needed = |hash: &blake3::Hash| {
            let mut edits = kept
                .cells
                .values()
                .flat_map(|(cell, _)| &cell.interventions);
            self.options.wanted == Wanted::All
                || edits.any(|edit| edit.edit.vectors().any(|vector| vector.hash() == *hash))
        };
        let donors = std::mem::take(&mut kept.donors);
        Cells {
            donors: donors
                .into_iter()
                .filter(|(hash, _)| needed(hash))
                .collect(),
            vectors: HashMap::new(),
            kept: kept.cells,
            further,
        }
    }

    /// Computes the cells, and says how far each stratum is from what is stored.
    fn compare(
        &mut self,
        sample: &Sample,
        mut cells: Cells,
        models: &mut BTreeMap<String, Here>,
        deadline: Option<Instant>,
    ) -> Option<Recomputed> {
        let all = cells.kept.len() + cells.donors.len();
        let tolerances = self.tolerances(sample, models);
        let mut progress = Progress {
            deadline,
            done: 0,
            all,
            on_step: &mut *self.on_step,
        };
        let mut flow = ControlFlow::Continue(());
        let (mut drifts, mut same) = (HashMap::new(), 0);
        let computed = models.values_mut().try_for_each(|model| {
            same += cells.compute_donors(model, &mut progress, &mut flow)?;
            Ok(())
        });
        let computed = computed.and_then(|()| {
            let mut models = models.values_mut();
            models.try_for_each(|model| cells.compute(model, &mut drifts, &mut progress, &mut flow))
        });
        let done = progress.done;
        if let Err(error) = computed {
            let error: model::ModelError = error;
            self.level.not_checked("the models", error.to_string());
            return None;
        }
        let mut found = match sample.found(&with_tolerances(sample, &drifts, &tolerances)) {
            Ok(found) => found,
            Err(error) => {
                self.level.problem("the draw", error.to_string());
                return None;
            }
        };
        let further = cells.further.iter().filter_map(|key| drifts.get(key));
        let further: Vec<Drift> = further.copied().collect();
        let widest = tolerances.iter().map(|tolerance| tolerance.relative);
        let widest = widest.fold(0.0, f64::max);
        found.further = Summary::of(&further, widest);
        (found.donors, found.donors_same) = (cells.vectors.len() as u64, same);
        if flow.is_break() {
            let why = format!(
                "took {MOST_TIMES} times as long as expected and was ended with {done} of {all} values; ask for fewer with `--sample`"
            );
            self.level.not_checked("the draw", why);
            let beyond = drifts
                .values()
                .filter(|drift| drift.is_beyond(widest))
                .count();
            if beyond > 0 {
                let what = format!(
                    "{beyond} of {} values computed by then differ",
                    drifts.len()
                );
                self.level.problem("the draw", what);
            }
            return None;
        }
        self.judge(&found, &tolerances);
        Some(found)
    }

    /// How far the values of each stratum may be from the stored ones.
    fn tolerances(&self, sample: &Sample, models: &BTreeMap<String, Here>) -> Vec<Tolerance> {
        let mut here = Lock::default();
        here.environment = Environment::here(self.options.device);
        let strata = sample.strata.iter();
        let of_stratum = |stratum: &Stratum| {
            let dtype = models.get(&stratum.model).map(|model| model.handle.dtype);
            Tolerance::between(self.lock, &here, dtype.unwrap_or(model::Dtype::Float32))
        };
        strata.map(of_stratum).collect()
    }

    /// What of it disagrees.
    fn judge(&mut self, found: &Recomputed, tolerances: &[Tolerance]) {
        for (stratum, tolerance) in found.strata.iter().zip(tolerances) {
            let differing = stratum.drift.differing + stratum.failed;
            if differing > 0 {
                let drawn = stratum.drift.compared + stratum.failed;
                let allowed = match tolerance.relative == 0.0 {
                    true => "not the same to the bit".to_string(),
                    false => format!("further than {:.1e} apart", tolerance.relative),
                };
                self.level.problem(
                    format!("stage `{}`, model `{}`", stratum.stage, stratum.model),
                    format!(
                        "{differing} of {drawn} values computed again are {allowed} ({})",
                        tolerance.why
                    ),
                );
            }
        }
        if found.further.differing > 0 {
            let what = format!(
                "{} of {} further values are not what is stored",
                found.further.differing, found.further.compared
            );
            self.level.problem("layers without a drawn value", what);
        }
        let bits = tolerances.iter().all(|tolerance| tolerance.relative == 0.0);
        if bits && found.donors_same < found.donors {
            let what = format!(
                "{} of {} activations computed again have another hash than the file says",
                found.donors - found.donors_same,
                found.donors
            );
            self.level.problem("hashes", what);
        }
        self.level.checked.push(format!(
            "{} of {} stored values, drawn by seed {}",
            found.compared, found.stored, found.seed
        ));
    }
}

/// The drifts of each stratum of a sample.
fn with_tolerances(
    sample: &Sample,
    drifts: &HashMap<Key, Drift>,
    tolerances: &[Tolerance],
) -> Vec<(Vec<Option<Drift>>, Tolerance)> {
    let strata = sample.drawn.iter().zip(tolerances);
    let of_stratum = |(keys, tolerance): (&BTreeSet<Key>, &Tolerance)| {
        let drifts = keys.iter().map(|key| drifts.get(key).copied());
        (drifts.collect(), tolerance.clone())
    };
    strata.map(of_stratum).collect()
}

/// How far the work is.
struct Progress<'a, 's> {
    deadline: Option<Instant>,
    done: usize,
    all: usize,
    on_step: &'a mut (dyn FnMut(Step<'_>) + 's),
}

impl Progress<'_, '_> {
    fn values(
        &mut self,
        model: &mut Here,
        cells: &[Cell],
        flow: &mut ControlFlow<()>,
    ) -> Result<Vec<Option<Value>>, model::ModelError> {
        if flow.is_break() || cells.is_empty() {
            return Ok(vec![None; cells.len()]);
        }
        let (before, all) = (self.done, self.all);
        let (values, ended) = values(&mut model.loaded, cells, &mut |done| {
            self.done = before + done;
            (self.on_step)(Step::Computing {
                done: self.done,
                all,
            });
            match self
                .deadline
                .is_some_and(|deadline| Instant::now() > deadline)
            {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        *flow = ended;
        Ok(values)
    }
}

impl Cells {
    /// Computes the activations of one model that are put into other runs. Returns how many have the hash that they should.
    fn compute_donors(
        &mut self,
        model: &mut Here,
        progress: &mut Progress<'_, '_>,
        flow: &mut ControlFlow<()>,
    ) -> Result<u64, model::ModelError> {
        let of_model = self.donors.iter();
        let of_model: Vec<(blake3::Hash, Cell)> = of_model
            .filter(|(_, cell)| cell.model == model.handle.fingerprint)
            .map(|(hash, cell)| (*hash, cell.clone()))
            .collect();
        let cells: Vec<Cell> = of_model.iter().map(|(_, cell)| cell.clone()).collect();
        let values = progress.values(model, &cells, flow)?;
        let mut same = 0;
        for ((hash, _), value) in of_model.iter().zip(values) {
            if let Some(Value::Activation(values)) = value {
                let vector = Vector::new(values);
                same += u64::from(vector.hash() == *hash);
                self.vectors.insert(*hash, Arc::new(vector));
            }
        }
        Ok(same)
    }

    /// Computes the cells of one model, and holds each against its stored value.
    fn compute(
        &self,
        model: &mut Here,
        drifts: &mut HashMap<Key, Drift>,
        progress: &mut Progress<'_, '_>,
        flow: &mut ControlFlow<()>,
    ) -> Result<(), model::ModelError> {
        let of_model = self.kept.iter();
        let of_model: Vec<(&Key, &(Cell, Value))> = of_model
            .filter(|(_, (cell, _))| cell.model == model.handle.fingerprint)
            .collect();
        let cells = of_model.iter().map(|(_, (cell, _))| {
            let mut cell = cell.clone();
            put_in_place(&mut cell.interventions, |hash| {
                self.vectors.get(&hash).cloned()
            });
            cell
        });
        let cells: Vec<Cell> = cells.collect();
        let values = progress.values(model, &cells, flow)?;
        for ((key, (_, stored)), value) in of_model.into_iter().zip(values) {
            if let Some(value) = value {
                drifts.insert(*key, Drift::between(stored, &value));
            }
        }
        Ok(())
    }
}
