//! Every kind of edit at every selection of positions, read in every way, against the numbers of `tests/edits` (`make_edits.py` there wrote them).
//! A single pass there is a tile of many rows here, with prompts whose start is computed once.

use super::golden::named;
use super::*;

/// What `make_edits.py` wrote.
struct Reference {
    described: Json,
    tensors: HashMap<String, Vec<f32>>,
}

fn text(value: &Json) -> &str {
    value.as_str().unwrap()
}

/// One model and prompt of it, and the cells of a case by what is read.
struct Asked<'r, 's> {
    reference: &'r Reference,
    subject: &'s Subject,
    tokens: Arc<Tokens>,
    d_vocab: usize,
}

impl Reference {
    fn read() -> Self {
        Reference {
            described: json(&at("tests/edits/reference.json")),
            tensors: tensors(&at("tests/edits/reference.safetensors")),
        }
    }

    fn list(&self, key: &str) -> &[Json] {
        self.described[key].as_array().unwrap()
    }

    /// An edit by its name, with the vectors and the number that the program takes.
    fn edit(&self, name: &str) -> Edit {
        let told = &self.described["edits"][name];
        let names = told["vectors"].as_array().unwrap();
        let mut vectors = names.iter().map(|name| {
            let values = &self.tensors[text(name)];
            Arc::new(Vector::new(values.clone()))
        });
        let number = told["number"].as_f64();
        match text(&told["kind"]) {
            "add" => Edit::Add {
                vector: vectors.next().unwrap(),
                scale: number.unwrap(),
            },
            "ablate" => Edit::Ablate(vectors.next().unwrap()),
            "ablate_span" => Edit::AblateSpan(vectors.collect()),
            "set_level" => Edit::SetLevel {
                read: vectors.next().unwrap(),
                write: vectors.next().unwrap(),
                level: number.unwrap(),
            },
            "rotate" => Edit::Rotate {
                first: vectors.next().unwrap(),
                second: vectors.next().unwrap(),
                degrees: number.unwrap(),
            },
            other => panic!("an edit of the kind `{other}`"),
        }
    }

    /// A selection in a prompt of so many tokens; where it `goes_on`, a window that reaches the prompt's end has none.
    fn positions(&self, selection: &str, length: usize, goes_on: bool) -> Positions {
        let from_front = |index: i64| match index {
            0.. => index as usize,
            _ => length - index.unsigned_abs() as usize,
        };
        let windows = self.described["selections"][selection].as_array().unwrap();
        let windows = windows.iter().map(|window| {
            let start = from_front(window[0].as_i64().unwrap());
            match window[1].as_i64() {
                Some(end) => (start, from_front(end)),
                None if goes_on => (start, Positions::OPEN),
                None => (start, length),
            }
        });
        Positions::of(windows).unwrap()
    }
}

impl Asked<'_, '_> {
    fn cell(&self, case: &Json, readout: Readout, goes_on: bool) -> Cell {
        let edits = case["edits"].as_array().unwrap().iter().map(|row| {
            let [hook, selection, name] = [0, 1, 2].map(|index| text(&row[index]));
            let length = self.tokens.len();
            let selected = self.reference.positions(selection, length, goes_on);
            edit(named(hook), selected, self.reference.edit(name))
        });
        self.subject.cell(&self.tokens, edits.collect(), readout)
    }

    fn activation(&self, case: &Json, name: &str) -> Cell {
        let read = &self.reference.described["reads"][name];
        let hook = named(text(&read["hook"]));
        let readout = match read["position"].as_i64() {
            None => Readout::Mean { hook },
            Some(back) => Readout::Activation {
                hook,
                position: self.tokens.len() - back.unsigned_abs() as usize,
            },
        };
        self.cell(case, readout, false)
    }

    fn logits(&self, case: &Json) -> Cell {
        self.cell(case, all_logits(self.d_vocab), false)
    }

    /// Log-odds, and the probability of the continuation without and with edits of its own positions.
    fn numbers(&self, case: &Json) -> [Cell; 3] {
        let tokens = ids(&self.reference.described["tokens"]);
        let text: Arc<[u32]> = ids(&self.reference.described["continuation"]).into();
        [
            self.cell(case, Readout::LogOdds(tokens.into()), false),
            self.cell(case, Readout::Continuation(Arc::clone(&text)), false),
            self.cell(case, Readout::Continuation(text), true),
        ]
    }

    /// How far the next token is from the unedited one, without and with refusal_direction's ε.
    fn divergences(&self, case: &Json) -> [Cell; 2] {
        [0.0, 1e-6].map(|epsilon| self.cell(case, Readout::Divergence { epsilon }, false))
    }

    /// The log-odds of every token, which only their ε keeps finite.
    fn certain(&self) -> Cell {
        let all = Readout::LogOdds((0..self.d_vocab as u32).collect());
        self.subject.cell(&self.tokens, vec![], all)
    }

    fn greedy(&self, case: &Json, count: usize) -> Cell {
        let readout = Readout::Generation {
            max_new_tokens: count,
            sampling: Sampling::Greedy,
            stop_at_end: false,
            further_ends: Arc::default(),
        };
        self.cell(case, readout, true)
    }
}

/// Cells and what the reference has for them.
#[derive(Default)]
struct Pairs<'r> {
    logits: Vec<(Cell, &'r [f32])>,
    activations: Vec<(Cell, &'r [f32])>,
    numbers: Vec<(Cell, f64)>,
    /// Nats, and 1 where the most probable token is the same.
    divergences: Vec<(Cell, [f64; 2])>,
    texts: Vec<(Cell, Value)>,
}

impl<'r> Pairs<'r> {
    /// Of every case of a prompt, whose numbers are those of `row`.
    fn extend(&mut self, asked: &Asked<'r, '_>, row: &'r Json) {
        let reference = asked.reference;
        let cases = reference.list("cases");
        let rows = |what: &str| {
            let all =
                &reference.tensors[&format!("{}.p{}.{what}", text(&row["model"]), row["prompt"])];
            all.chunks(all.len() / cases.len())
        };
        let logits = cases.iter().map(|case| asked.logits(case));
        self.logits.extend(logits.zip(rows("logits")));
        for name in ["earlier", "last", "mean"] {
            let cells = cases.iter().map(|case| asked.activation(case, name));
            self.activations.extend(cells.zip(rows(name)));
        }
        for (index, case) in cases.iter().enumerate() {
            let keys = ["log_odds", "continuation", "continuation_edited"];
            let expected = keys.map(|key| row[key][index].as_f64().unwrap());
            self.numbers
                .extend(asked.numbers(case).into_iter().zip(expected));
        }
        for (case, expected) in cases.iter().zip(row["divergence"].as_array().unwrap()) {
            let same = f64::from(expected[2].as_bool().unwrap());
            let expected = [0, 1].map(|index| [expected[index].as_f64().unwrap(), same]);
            let cells = asked.divergences(case).into_iter();
            self.divergences.extend(cells.zip(expected));
        }
        let certain = row["certain"].as_f64().unwrap();
        self.numbers.push((asked.certain(), certain));
        let generating = cases.iter().filter(|case| case["greedy"] == true);
        let greedy = row["greedy"].as_array().unwrap().iter().map(ids);
        self.texts
            .extend(generating.zip(greedy).map(|(case, text)| {
                let cell = asked.greedy(case, text.len());
                (cell, Value::Generation(text))
            }));
    }

    /// The worst errors of logits, activations, and numbers; texts are the same.
    fn worst(self, subject: &mut Subject) -> [Worst; 3] {
        let [mut logits, mut activations, mut numbers] = [(); 3].map(|()| Worst::default());
        let (cells, expected): (Vec<Cell>, Vec<Value>) = self.texts.into_iter().unzip();
        assert_eq!(subject.values(&cells), expected);
        let (cells, expected): (Vec<Cell>, Vec<&[f32]>) = self.logits.into_iter().unzip();
        for (found, expected) in subject.vectors(&cells).iter().zip(expected) {
            logits.logits(found, expected);
        }
        let (cells, expected): (Vec<Cell>, Vec<&[f32]>) = self.activations.into_iter().unzip();
        for (found, expected) in subject.vectors(&cells).iter().zip(expected) {
            activations.vector(found, expected);
        }
        let (cells, expected): (Vec<Cell>, Vec<f64>) = self.numbers.into_iter().unzip();
        for (found, expected) in subject.scores(&cells).into_iter().zip(expected) {
            numbers.scalar(found, expected);
        }
        let (cells, expected): (Vec<Cell>, Vec<[f64; 2]>) = self.divergences.into_iter().unzip();
        for (found, [nats, same]) in subject.values(&cells).into_iter().zip(expected) {
            let Value::Divergence {
                nats: found,
                agreement,
            } = found
            else {
                panic!("{found:?} is no divergence");
            };
            numbers.scalar(found, nats);
            assert_eq!(agreement, same);
        }
        [logits, activations, numbers]
    }
}

/// Everything about one model: of all prompts, each by itself, or of those that share a start, which is then computed once.
fn compare(model: &str, shares: bool) {
    let reference = Reference::read();
    let folder = at("tests/families").join(model);
    let (handle, mut subject) = Subject::open(&folder, Dtype::Float32, 1 << 24);
    let mut pairs = Pairs::default();
    let rows = reference.list("rows").iter();
    for row in rows.filter(|row| row["model"] == model) {
        let prompt = &reference.list("prompts")[row["prompt"].as_u64().unwrap() as usize];
        let start = match (shares, prompt["shared"].as_u64().unwrap() as usize) {
            (false, _) => 0,
            (true, 0) => continue,
            (true, shared) => shared,
        };
        let asked = Asked {
            reference: &reference,
            subject: &subject,
            tokens: Arc::new(Tokens::with_template(ids(&prompt["ids"]), start)),
            d_vocab: handle.config().d_vocab,
        };
        pairs.extend(&asked, row);
    }
    let [logits, activations, numbers] = pairs.worst(&mut subject);
    eprintln!(
        "{model}, starts shared: {shares}: logits {logits:?}, activations {activations:?}, log-odds and texts {numbers:?}"
    );
    for worst in [logits, activations] {
        assert!(worst.relative < 2e-5 && worst.one_minus_cosine < 1e-9);
    }
    assert!(numbers.absolute < 2e-5);
}

/// Tolerance: 2e-5 relative (L2), as for the models unedited, and 2e-5 of log-odds, log-probabilities and divergences, which are sums of some units; measured
/// below 3e-6 and 2e-6.
#[test]
fn edits_of_mistral() {
    compare("mistral_full", false);
    compare("mistral_full", true);
}

/// Measured below 1e-6 and 2e-6.
#[test]
fn edits_of_gpt2() {
    compare("gpt2", false);
    compare("gpt2", true);
}
