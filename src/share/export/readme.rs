//! What the file tells a person who has unpacked it by hand, or looks into it.

use std::fmt::Write;

use crate::harmless;
use crate::manifest::{Manifest, Prompts};
use crate::prompts::{PublicSet, is_noncommercial};

use super::super::withheld::Withheld;

/// The text.
pub(super) fn text(top: &str, manifest: &Manifest, withheld: &Withheld) -> String {
    let study = harmless::line(&manifest.study);
    let question = manifest.question.as_deref().map(harmless::line);
    let question = question.map_or(String::new(), |question| format!("{question}\n\n"));
    let (missing, whose) = (missing(top, withheld), whose(manifest));
    let cached = match withheld.sets.is_empty() {
        true => "everything",
        false => "with the prompts that are withheld, what does not rest on them",
    };
    let (dial, ended) = (&manifest.provenance.dial, ended(manifest));
    format!(
        "# {study}\n\n{question}\
         A run of the study `{study}`, as it was shared: what was asked, what was asked of it, every number that came out, and the values\n\
         that the models gave, from which all tables follow. Made by dial {dial}; the run ended {ended}.\n\n\
         ## What to type\n\n\
         ```\n\
         dial verify {top}.zip --model NAME=SOURCE    # what of this can be checked, and how far it agrees\n\
         dial unpack {top}.zip DIR          # a folder to go on from:\n\
         cd DIR && dial plan study.toml     #   {cached} is cached, and what is changed is all that is computed\n\
         dial run study.toml --cache again --set models.NAME.source=SOURCE\n\
         dial diff . runs/*/latest          # all of it computed again, with your own copy of the model, and how far both agree\n\
         ```\n\n\
         `report.html` shows the results in a browser, without anything else.\n\n\
         {missing}{whose}\
         ## What is here\n\n{HOLDS}"
    )
}

/// What is withheld, and what can be checked without it; nothing where nothing is.
fn missing(top: &str, withheld: &Withheld) -> String {
    if withheld.sets.is_empty() {
        return String::new();
    }
    let mut text = "## What is withheld\n\n".to_string();
    for (name, set) in &withheld.sets {
        let (name, count, file) = (harmless::line(name), set.count, harmless::line(&set.file));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "- prompt set `{name}`: {count} prompts, which would be in `{file}`"
        );
    }
    for file in &withheld.files {
        let _ = writeln!(text, "- `{}`, which holds texts", harmless::line(file));
    }
    let stages: Vec<String> = withheld
        .stages
        .iter()
        .map(|stage| format!("`{stage}`"))
        .collect();
    let options = withheld.sets.keys();
    let options: Vec<String> = options
        .map(|name| format!("--prompts {}=PATH", harmless::line(name)))
        .collect();
    let _ = write!(
        text,
        "\nTexts are left out of every file here, those that models wrote after these prompts, too. Of {}\n\
         there are tables without texts, and neither activations, cells nor records, whose keys are hashes of what was asked. Without the\n\
         prompts one can check that nothing here has been changed since it was written, and not that these tables follow from what the models\n\
         gave. Ask the authors for the prompts; then\n\n\
         ```\n\
         dial unpack {top}.zip DIR {}   # checks that they are the same, by `withheld.json`\n\
         ```\n\n\
         and `dial run` computes these stages again.\n\n",
        match stages.is_empty() {
            true => "no stage".to_string(),
            false => stages.join(", "),
        },
        options.join(" ")
    );
    text
}

/// Under which licences its prompts are; nothing where none is known.
fn whose(manifest: &Manifest) -> String {
    let line = |(name, set): (&String, &Prompts)| {
        let public = set.known_as.as_deref().and_then(PublicSet::named);
        let licence = set.licence.as_deref().map(|licence| {
            let only = match is_noncommercial(licence) {
                true => ", which allows no commercial use",
                false => "",
            };
            format!("licence {}{only}", harmless::line(licence))
        });
        let credit = public.map(|set| format!("{}, {}", set.credit, set.page()));
        let note = public.and_then(|set| set.licence.note).map(str::to_string);
        let told: Vec<String> = [licence, note, credit].into_iter().flatten().collect();
        let name = harmless::line(name);
        (!told.is_empty()).then(|| format!("- prompt set `{name}`: {}\n", told.join("; ")))
    };
    let lines: String = manifest.prompts.iter().filter_map(line).collect();
    match lines.is_empty() {
        true => lines,
        false => format!("## Whose prompts\n\n{lines}\n"),
    }
}

/// When the run ended.
pub(in super::super) fn ended(manifest: &Manifest) -> String {
    let started: Option<jiff::Timestamp> = manifest.started.parse().ok();
    let ended = started.and_then(|started| {
        let seconds = manifest.seconds.filter(|seconds| seconds.is_finite())?;
        let took = jiff::SignedDuration::try_from_secs_f64(seconds).ok()?;
        started.checked_add(took).ok()
    });
    // To the second, as a person says it.
    let ended = ended.map(|ended| ended.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    ended.unwrap_or_else(|| manifest.started.clone())
}

/// What is in the folder.
const HOLDS: &str = "\
| | |
|---|---|
| `report.html`, `figures/` | the results, to look at |
| `tables/` | every table, as CSV and as Parquet |
| `directions/`, `tensors/` | the directions, each with its description, and activations where a stage keeps them: safetensors |
| `study.toml` | the study with everything applied; it runs in this folder |
| `as-given/` | the study as its author wrote it |
| `study.lock` | what the study names, as the run found it: commits, files, hashes, versions |
| `run.json` | the run: versions, device, keys, times |
| `prompts/`, `files/` | prompt sets, and files that stages import |
| `models/` | the models without their weights: tokenizer, template, configuration, hashes of the weights |
| `cells/` | the values that the models gave, for each stage |
| `hashes/` | hashes of activations that were put into other runs; they are computed again by whoever has the model |
| `records/` | what the cache says of each stage |
| `ro-crate-metadata.json` | every file here with its size and hash |

Paths of the author's machine are replaced by `…/` and the name of the file.
";
