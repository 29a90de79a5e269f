//! Whom a study is by, and under which licences it is shared.

use percent_encoding::utf8_percent_encode;
use serde_json::{Value as Json, json};

use crate::plan::Opened;

use super::super::super::layout;
use super::reference;

/// Where addresses of licences that have an identifier begin.
const SPDX: &str = "https://spdx.org/licenses/";

/// What the study lacks to be shared well, each as a sentence.
pub(in crate::share::export) fn undeclared(opened: &Opened) -> Vec<String> {
    let (study, inputs) = (&opened.study, &opened.inputs);
    let credits = &study.credits;
    let fields = [
        ("title", credits.title.is_some()),
        ("description", credits.description.is_some()),
        ("authors", !credits.authors.is_empty()),
        ("licence", credits.licence.is_some()),
    ];
    let missing = fields.into_iter().filter(|(_, is_there)| !is_there);
    let missing: Vec<&str> = missing.map(|(field, _)| field).collect();
    let of_study = missing.first().map(|first| {
        format!(
            "the section `[study]` does not declare `{}`, and the file says so; declare them there, or here with `--set study.{first}=…`",
            missing.join("`, `")
        )
    });
    let sets = inputs.prompts.iter();
    let sets = sets.filter(|(name, set)| study.licence_of(name, set).is_none());
    let models = inputs.models.keys().filter(|name| {
        let model = study.models.get(*name);
        model.is_some_and(|model| model.licence.is_none())
    });
    let sets = sets.map(|(name, _)| format!("`prompts.{name}`"));
    let unlicensed: Vec<String> = sets
        .chain(models.map(|name| format!("`models.{name}`")))
        .collect();
    let of_others = (!unlicensed.is_empty())
        .then(|| format!("no `licence` is declared for {}", unlicensed.join(", ")));
    of_study.into_iter().chain(of_others).collect()
}

/// The name and the address in `Ada Lovelace <https://…>`.
fn name_and_address(author: &str) -> (&str, Option<&str>) {
    let parts = author
        .trim()
        .strip_suffix('>')
        .and_then(|rest| rest.rsplit_once('<'));
    match parts {
        Some((name, address)) => (name.trim(), Some(address.trim())),
        None => (author.trim(), None),
    }
}

pub(super) fn person_id(author: &str) -> String {
    match name_and_address(author) {
        (_, Some(address)) if address.starts_with("https://") => address.to_string(),
        (name, _) => format!("#author-{}", utf8_percent_encode(name, layout::ENCODED)),
    }
}

pub(super) fn person(author: &str) -> Json {
    let (name, address) = name_and_address(author);
    let mut person = json!({ "@id": person_id(author), "@type": "Person", "name": name });
    if let Some(mail) = address.filter(|address| address.contains('@')) {
        person["email"] = mail.into();
    }
    person
}

/// A licence as what has it says it: the address of its text, or a text.
pub(super) fn licence(said: &str) -> Json {
    match licence_address(said) {
        Some(address) => reference(&address),
        None => said.into(),
    }
}

fn licence_address(said: &str) -> Option<String> {
    let is_identifier = |c: char| c.is_ascii_alphanumeric() || "-.+".contains(c);
    match said {
        address if address.starts_with("https://") || address.starts_with("http://") => {
            Some(address.to_string())
        }
        identifier if !identifier.is_empty() && identifier.chars().all(is_identifier) => {
            Some(format!("{SPDX}{identifier}"))
        }
        _ => None,
    }
}

pub(super) fn licence_entity(said: String) -> Option<Json> {
    let address = licence_address(&said)?;
    Some(
        json!({ "@id": address, "@type": "CreativeWork", "name": said, "description": format!("The licence {said}") }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_licences_are_named_by_their_addresses() {
        let ada = "Ada Lovelace <https://orcid.org/0000-0000-0000-0001>";
        assert_eq!(
            person(ada),
            json!({ "@id": "https://orcid.org/0000-0000-0000-0001", "@type": "Person", "name": "Ada Lovelace" })
        );
        assert_eq!(
            person("A B"),
            json!({ "@id": "#author-A%20B", "@type": "Person", "name": "A B" })
        );
        assert_eq!(person("A <a@b.org>")["email"], "a@b.org");
        assert_eq!(
            licence("CC-BY-4.0"),
            json!({ "@id": "https://spdx.org/licenses/CC-BY-4.0" })
        );
        assert_eq!(
            licence("https://x.org/l"),
            json!({ "@id": "https://x.org/l" })
        );
        assert_eq!(licence("ask me"), "ask me");
    }
}
