//! `ro-crate-metadata.json`: what the archive is, for programs that know nothing of this one. An RO-Crate 1.1 of the Workflow Run profile 0.5:
//! the study is the workflow, the run an action that took prompt sets, models and imported files and gave tables, directions, figures and a page.

mod credits;
mod places;

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::utf8_percent_encode;
use serde_json::{Value as Json, json};

use crate::manifest::Manifest;
use crate::plan::Opened;

use super::super::layout;
use super::contents::{model_folders, prompt_files};
use super::readme::ended;
use credits::{licence, licence_entity, person, person_id};
use places::{Role, media_type, place_of};

pub(super) use credits::undeclared;

/// What is known of a file: its size, and the sha256 of its bytes in lower-case hexadecimal.
pub(in super::super) struct Listed {
    pub(in super::super) bytes: u64,
    pub(in super::super) sha256: String,
}

/// The files of the archive but this one, by their place.
pub(in super::super) type Listing = BTreeMap<String, Listed>;

/// The term for it is one of the profile's, not of the context.
const SHA256: &str = "https://w3id.org/ro/terms/workflow-run#sha256";
const PROFILES: [(&str, &str, &str); 3] = [
    (
        "https://w3id.org/ro/wfrun/process/0.5",
        "Process Run Crate",
        "0.5",
    ),
    (
        "https://w3id.org/ro/wfrun/workflow/0.5",
        "Workflow Run Crate",
        "0.5",
    ),
    (
        "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
        "Workflow RO-Crate",
        "1.0",
    ),
];
const PARAMETER: &str = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE";
const WORKFLOW: &str = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE";
/// Ids of what is no file.
const RUN: &str = "#run";
const LANGUAGE: &str = "#dial";
/// Stands for the licence that a crate must have.
const NO_LICENCE: &str = "No licence was declared: whoever wants to use it asks its authors.";

/// The text of the file.
pub(in super::super) fn text(
    listing: &Listing,
    opened: &Opened,
    manifest: &Manifest,
) -> Result<String, serde_json::Error> {
    let crate_of = CrateOf {
        listing,
        opened,
        manifest,
    };
    let graph = crate_of.graph();
    let context = json!(["https://w3id.org/ro/crate/1.1/context", { "sha256": SHA256 }]);
    let all = json!({ "@context": context, "@graph": graph });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

struct CrateOf<'a> {
    listing: &'a Listing,
    opened: &'a Opened,
    manifest: &'a Manifest,
}

impl CrateOf<'_> {
    fn graph(&self) -> Vec<Json> {
        let credits = &self.opened.study.credits;
        let mut graph = vec![
            descriptor(),
            self.root(),
            self.workflow(),
            language(self.manifest),
            self.run(),
        ];
        graph.extend(PROFILES.map(|(id, name, version)| {
            json!({ "@id": id, "@type": "CreativeWork", "name": name, "version": version })
        }));
        graph.extend(credits.authors.iter().map(|author| person(author)));
        graph.extend(self.licences().into_iter().filter_map(licence_entity));
        graph.extend(
            self.inputs()
                .into_iter()
                .chain(self.outputs())
                .map(|p| p.entity()),
        );
        graph.extend(self.models());
        let others = self
            .listing
            .iter()
            .filter(|(name, _)| *name != layout::STUDY);
        graph.extend(others.map(|(name, listed)| self.file(name, listed)));
        graph
    }

    /// The archive's folder as a whole.
    fn root(&self) -> Json {
        let (study, credits) = (&self.opened.study, &self.opened.study.credits);
        let name = credits.title.clone().unwrap_or_else(|| study.name.clone());
        let question = study.question.clone();
        let description = credits.description.clone().or(question);
        let described = format!("A run of the study `{}` with dial.", study.name);
        let parts = self
            .listing
            .keys()
            .map(|name| reference(&layout::id_of(name)));
        let models = self.folders().into_values();
        let parts = parts.chain(models.map(|folder| reference(&folder_id(&folder))));
        let mut root = json!({
            "@id": "./",
            "@type": "Dataset",
            "name": name,
            "description": description.unwrap_or(described),
            "datePublished": ended(self.manifest),
            "conformsTo": PROFILES.map(|(id, ..)| reference(id)),
            "license": licence(credits.licence.as_deref().unwrap_or(NO_LICENCE)),
            "mainEntity": reference(layout::STUDY),
            "mentions": [reference(RUN)],
            "hasPart": parts.collect::<Json>(),
        });
        if !credits.authors.is_empty() {
            root["author"] = credits
                .authors
                .iter()
                .map(|author| reference(&person_id(author)))
                .collect();
        }
        root
    }

    /// The study, as the workflow that was run.
    fn workflow(&self) -> Json {
        let ids = |parameters: Vec<Parameter>| -> Json {
            parameters
                .iter()
                .map(|parameter| reference(&parameter.id))
                .collect()
        };
        let mut workflow = match self.listing.get(layout::STUDY) {
            Some(listed) => self.file(layout::STUDY, listed),
            None => json!({ "@id": layout::STUDY }),
        };
        workflow["@type"] = json!(["File", "SoftwareSourceCode", "ComputationalWorkflow"]);
        workflow["conformsTo"] = reference(WORKFLOW);
        workflow["programmingLanguage"] = reference(LANGUAGE);
        workflow["input"] = ids(self.inputs());
        workflow["output"] = ids(self.outputs());
        if let Some(said) = &self.opened.study.credits.licence {
            workflow["license"] = licence(said);
        }
        workflow
    }

    /// The run, as the action that made what came out.
    fn run(&self) -> Json {
        let manifest = self.manifest;
        let (objects, results): (Vec<&String>, Vec<&String>) = self
            .listing
            .keys()
            .filter(|name| place_of(name).is_some_and(|place| place.role != Role::Other))
            .partition(|name| place_of(name).is_some_and(|place| place.role == Role::Input));
        let ids = |names: Vec<&String>| -> Vec<Json> {
            names
                .into_iter()
                .map(|name| reference(&layout::id_of(name)))
                .collect()
        };
        let models = self.folders().into_values();
        let models = models.map(|folder| reference(&folder_id(&folder)));
        let here = &manifest.provenance;
        let mut run = json!({
            "@id": RUN,
            "@type": "CreateAction",
            "name": format!("Run `{}`", manifest.run),
            "description": format!(
                "dial {}, libtorch {}, on {}{}",
                here.dial, here.libtorch, here.device, here.cpu.as_ref().map_or(String::new(), |cpu| format!(", {cpu}"))
            ),
            "instrument": reference(layout::STUDY),
            "object": ids(objects).into_iter().chain(models).collect::<Json>(),
            "result": ids(results),
            "startTime": manifest.started,
            "endTime": ended(manifest),
            "actionStatus": "http://schema.org/CompletedActionStatus",
        });
        let authors = &self.opened.study.credits.authors;
        if !authors.is_empty() {
            run["agent"] = authors
                .iter()
                .map(|author| reference(&person_id(author)))
                .collect();
        }
        run
    }

    /// What a study of this kind takes: its prompt sets.
    fn inputs(&self) -> Vec<Parameter> {
        let files = prompt_files(self.opened).into_iter();
        let parameter = |(set, file): (String, String)| {
            Parameter::new("input", &format!("prompts {set}"), &file)
        };
        // One that is withheld has no file.
        let files = files.filter(|(_, file)| self.listing.contains_key(file));
        files.map(parameter).collect()
    }

    /// What it gives: its page, and the main table of each stage.
    fn outputs(&self) -> Vec<Parameter> {
        let tables = self
            .listing
            .keys()
            .filter(|name| name.starts_with(layout::TABLES) && name.ends_with(".csv"));
        let tables = tables.map(|name| {
            let stem = name
                .trim_start_matches(layout::TABLES)
                .trim_matches('/')
                .trim_end_matches(".csv");
            Parameter::new("output", &format!("table {stem}"), name)
        });
        let page = Parameter::new("output", "report", layout::REPORT);
        tables.chain([page]).collect()
    }

    /// The folder of each model that has one.
    fn folders(&self) -> BTreeMap<String, String> {
        let mut folders = model_folders(self.opened);
        folders.retain(|_, folder| {
            let below = format!("{folder}/");
            self.listing.keys().any(|file| file.starts_with(&below))
        });
        folders
    }

    /// Models, each as its folder.
    fn models(&self) -> Vec<Json> {
        let folders = self.folders().into_iter();
        let model = |(name, folder): (String, String)| {
            let below = format!("{folder}/");
            let parts = self.listing.keys().filter(|file| file.starts_with(&below));
            let spec = self.opened.study.models.get(&name);
            let source = self
                .manifest
                .models
                .get(&name)
                .and_then(|model| model.source.clone());
            let mut model = json!({
                "@id": folder_id(&folder),
                "@type": "Dataset",
                "name": format!("Model `{name}`, without its weights"),
                "description": format!("The study names it as `{}`.", source.unwrap_or_default()),
                "hasPart": parts.map(|file| reference(&layout::id_of(file))).collect::<Json>(),
            });
            if let Some(said) = spec.and_then(|model| model.licence.as_ref()) {
                model["license"] = licence(said);
            }
            model
        };
        folders.map(model).collect()
    }

    fn file(&self, name: &str, listed: &Listed) -> Json {
        let mut file = json!({
            "@id": layout::id_of(name),
            "@type": "File",
            "name": name,
            "description": place_of(name).map_or("", |place| place.about),
            "contentSize": listed.bytes.to_string(),
            "sha256": listed.sha256,
            "encodingFormat": media_type(name),
        });
        let of_set = |(set, file): &(String, String)| (file == name).then(|| set.clone());
        let set = prompt_files(self.opened)
            .into_iter()
            .find_map(|entry| of_set(&entry));
        let said = set.and_then(|set| self.manifest.prompts.get(&set)?.licence.clone());
        if let Some(said) = said {
            file["license"] = licence(&said);
        }
        file
    }

    /// Every licence that is named.
    fn licences(&self) -> Vec<String> {
        let study = &self.opened.study;
        let sets = self.manifest.prompts.values();
        let sets = sets.filter_map(|set| set.licence.clone());
        let models = study
            .models
            .values()
            .filter_map(|model| model.licence.clone());
        let all = study
            .credits
            .licence
            .clone()
            .into_iter()
            .chain(sets)
            .chain(models);
        let all: BTreeSet<String> = all.collect();
        all.into_iter().collect()
    }
}

/// A slot of the workflow, and what it held in this run.
struct Parameter {
    id: String,
    name: String,
    example: String,
}

impl Parameter {
    fn new(way: &str, name: &str, file: &str) -> Self {
        let encoded = utf8_percent_encode(name, layout::ENCODED);
        Parameter {
            id: format!("#{way}-{encoded}"),
            name: name.to_string(),
            example: layout::id_of(file),
        }
    }

    fn entity(&self) -> Json {
        json!({
            "@id": self.id, "@type": "FormalParameter", "conformsTo": reference(PARAMETER),
            "name": self.name, "additionalType": "File", "workExample": reference(&self.example),
        })
    }
}

fn descriptor() -> Json {
    json!({
        "@id": layout::CRATE,
        "@type": "CreativeWork",
        "conformsTo": [reference("https://w3id.org/ro/crate/1.1"), reference("https://w3id.org/workflowhub/workflow-ro-crate/1.0")],
        "about": reference("./"),
    })
}

fn language(manifest: &Manifest) -> Json {
    json!({
        "@id": LANGUAGE,
        "@type": ["ComputerLanguage", "SoftwareApplication"],
        "name": "dial",
        "description": "Activation-steering studies of language models, described in one TOML file",
        "version": manifest.provenance.dial,
    })
}

fn reference(id: &str) -> Json {
    json!({ "@id": id })
}

fn folder_id(folder: &str) -> String {
    format!("{}/", layout::id_of(folder))
}
