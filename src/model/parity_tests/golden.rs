//! The tiny models of `tests/golden`, whose reference numbers `make_golden.py` there wrote.

use super::*;

/// The hook point of this name in a model of few layers.
pub(super) fn named(name: &str) -> HookPoint {
    let blocks = (0..8).flat_map(|layer| Site::ALL.map(|site| HookPoint::block(layer, site)));
    let mut hooks = blocks.chain([HookPoint::Embed, HookPoint::FinalNormalized]);
    hooks.find(|hook| hook.to_string() == name).unwrap()
}

/// The edits of a tiny model's reference, in its order.
fn golden_edit(row: &Json, vector: &Arc<Vector>) -> Intervention {
    let first = row["first"].as_u64().unwrap() as usize;
    let vector = Arc::clone(vector);
    edit(
        named(row["hook"].as_str().unwrap()),
        match row["later"].as_bool().unwrap() {
            true => Positions::From(first),
            false => Positions::At(first),
        },
        match row["operation"].as_str().unwrap() {
            "add" => Edit::Add {
                vector,
                scale: row["scale"].as_f64().unwrap(),
            },
            "ablate" => Edit::Ablate(vector),
            _ => Edit::Replace(vector),
        },
    )
}

/// The hook points of a model, which are those that its reference lists, where it does.
fn hooks(handle: &ModelHandle, n_layers: usize, described: &Json) -> Vec<HookPoint> {
    let blocks = (0..n_layers).flat_map(|l| Site::ALL.map(|site| HookPoint::block(l, site)));
    let all = blocks.chain([HookPoint::Embed, HookPoint::FinalNormalized]);
    let hooks: Vec<HookPoint> = all.filter(|hook| hook.is_in(handle.config())).collect();
    if let Some(listed) = described["hooks"].as_array() {
        let mut names: Vec<String> = hooks.iter().map(HookPoint::to_string).collect();
        let mut listed: Vec<&str> = listed.iter().filter_map(Json::as_str).collect();
        names.sort();
        listed.sort_unstable();
        assert_eq!(names, listed);
    }
    hooks
}

/// Everything in one tiny model's folder; the worst errors of activations and of logits, edited ones included.
fn compare_golden(folder: &Path) -> (Worst, Worst) {
    let (handle, mut subject) = Subject::open(folder, Dtype::Float32, 1 << 20);
    let reference = tensors(&folder.join("reference.safetensors"));
    let described = json(&folder.join("reference.json"));
    let vector = Arc::new(Vector::new(reference["vector"].clone()));
    let all = all_logits(handle.config().d_vocab);
    let prompts = described["prompts"].as_array().unwrap();
    let tokens: Vec<Arc<Tokens>> = prompts
        .iter()
        .map(|prompt| Arc::new(Tokens::new(ids(&prompt["ids"]))))
        .collect();
    let (mut reads, mut logits) = (Vec::new(), Vec::new());
    for (i, prompt) in prompts.iter().enumerate() {
        logits.push((
            subject.cell(&tokens[i], vec![], all.clone()),
            format!("p{i}.logits"),
        ));
        for hook in hooks(&handle, subject.n_layers, &described) {
            let rows = &reference[&format!("p{i}.{hook}")];
            let width = hook.width(handle.config());
            for (row, position) in rows.chunks(width).zip(ids(&prompt["positions"])) {
                let position = position as usize;
                let read = Readout::Activation { hook, position };
                reads.push((subject.cell(&tokens[i], vec![], read), row));
            }
        }
    }
    let mut continued = Vec::new();
    for (i, row) in described["edits"].as_array().unwrap().iter().enumerate() {
        let prompt = &tokens[row["prompt"].as_u64().unwrap() as usize];
        let edits = vec![golden_edit(row, &vector)];
        let cell = subject.cell(prompt, edits.clone(), all.clone());
        logits.push((cell, format!("e{i}.logits")));
        if let Some(greedy) = reference.get(&format!("e{i}.greedy")) {
            let readout = Readout::Generation {
                max_new_tokens: greedy.len(),
                sampling: Sampling::Greedy,
                stop_at_end: false,
                further_ends: Arc::default(),
            };
            let greedy: Vec<u32> = greedy.iter().map(|id| *id as u32).collect();
            continued.push((
                subject.cell(prompt, edits, readout),
                Value::Generation(greedy),
            ));
        }
    }
    let (mut worst_read, mut worst_logits) = (Worst::default(), Worst::default());
    let (cells, rows): (Vec<Cell>, Vec<&[f32]>) = reads.into_iter().unzip();
    for (found, row) in subject.vectors(&cells).iter().zip(rows) {
        worst_read.vector(found, row);
    }
    let (cells, names): (Vec<Cell>, Vec<String>) = logits.into_iter().unzip();
    for (found, name) in subject.vectors(&cells).iter().zip(names) {
        worst_logits.logits(found, &reference[&name]);
    }
    let (cells, expected): (Vec<Cell>, Vec<Value>) = continued.into_iter().unzip();
    assert_eq!(subject.values(&cells), expected, "{}", folder.display());
    (worst_read, worst_logits)
}

/// Every hook point, edits of each kind at several places, and steered greedy text on `qwen2` and on `llama` with the scalings of
/// its rotary embedding. Tolerance: 2e-5 relative (L2); 3 layers of sums over at most 48 float32 terms.
#[test]
fn tiny_models_of_both_architectures() {
    for name in [
        "qwen2_untied",
        "qwen2_tied",
        "qwen2_yarn",
        "llama_llama3",
        "llama_linear",
    ] {
        let (reads, logits) = compare_golden(&at("tests/golden").join(name));
        eprintln!("{name}: activations {reads:?}, logits {logits:?}");
        for worst in [reads, logits] {
            assert!(worst.relative < 2e-5 && worst.one_minus_cosine < 1e-9);
        }
    }
}

/// A test for each folder of `tests/families`.
macro_rules! families {
    ($($folder:ident),* $(,)?) => {
        mod families {
            $(#[test]
            fn $folder() {
                super::compare_family(stringify!($folder));
            })*
        }
    };
}

families! {
    cohere2,
    gemma,
    gemma2,
    gemma3_multimodal,
    gemma3_text,
    glm4,
    gpt2,
    gpt_neox_parallel,
    gpt_neox_serial,
    granite,
    mistral_full,
    mistral_window,
    mixtral,
    olmo2,
    olmo3,
    phi3,
    phi3_longrope,
    qwen3,
    qwen3_moe,
    smollm3,
    stablelm_parallel,
    stablelm_serial,
}

/// Tolerance: 2e-5 relative (L2), as for the first two families; in float64 the same formulas agree with the references to 6e-6.
fn compare_family(name: &str) {
    let folder = at("tests/families").join(name);
    let (reads, logits) = compare_golden(&folder);
    eprintln!("{name}: activations {reads:?}, logits {logits:?}");
    for worst in [reads, logits] {
        assert!(
            worst.relative < 2e-5 && worst.one_minus_cosine < 1e-9,
            "{worst:?}"
        );
    }
    super::company::assert_alone_as_together(&folder);
    assert_near_in_half_precision(&folder);
}

/// That shorter formats run at all and are about as far from the float32 reference as their roundings are.
fn assert_near_in_half_precision(folder: &Path) {
    let reference = tensors(&folder.join("reference.safetensors"));
    let described = json(&folder.join("reference.json"));
    for (dtype, tolerance) in [(Dtype::BFloat16, 0.1), (Dtype::Float16, 0.0125)] {
        let (handle, mut subject) = Subject::open(folder, dtype, 1 << 20);
        let all = all_logits(handle.config().d_vocab);
        let mut worst = Worst::default();
        for (i, prompt) in described["prompts"].as_array().unwrap().iter().enumerate() {
            let tokens = Arc::new(Tokens::new(ids(&prompt["ids"])));
            let read = Readout::Activation {
                hook: HookPoint::FinalNormalized,
                position: tokens.len() - 1,
            };
            let cells = [all.clone(), read].map(|read| subject.cell(&tokens, vec![], read));
            let found = subject.vectors(&cells);
            worst.logits(&found[0], &reference[&format!("p{i}.logits")]);
            let rows = &reference[&format!("p{i}.{}", HookPoint::FinalNormalized)];
            worst.vector(&found[1], &rows[rows.len() - handle.config().d_model..]);
        }
        let name = folder.display();
        eprintln!("{name} in {}: {worst:?}", dtype.name());
        assert!(worst.relative < tolerance, "{name}: {worst:?}");
    }
}
