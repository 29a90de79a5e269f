//! A run as one file: what an author sends, and a reviewer takes apart, checks and goes on from.
//!
//! The file is a ZIP archive, the same bytes for the same run. Everything in it lies under one folder, `<study>-<8 digits of the run's key>/`:
//!
//! ```text
//! README.md                    what it is, and what to type
//! ro-crate-metadata.json       every file of it with its size, its sha256 and what it is: an RO-Crate of the Workflow Run profile
//! study.toml                   the study with `extends` and `--set` applied, which runs in this folder: prompts are in `prompts/`,
//!                              imported files in `files/`, and each model is `models/<name>`, whatever its source was
//! as-given/                    the study's files as their author wrote them: `study.toml` (or .yaml) and `extends/`
//! study.lock, run.json         as in the run's folder
//! tables/, directions/         as in the run's folder, and tensors/
//! figures/, report.html        drawn of this folder
//! prompts/<set>.jsonl          the file of each prompt set (or .csv), byte by byte
//! prompts/<set>.selection.…    the file that says which of them are drawn, where one does
//! files/<path>                 files that stages import
//! models/<name>/               each model without its weights: `model.json`, `tokenizer.json`, `chat_template.jinja`
//! cells/<stage>.pack           the cells that the stage's tables were made from, as the cache has them (`cache/pack.rs`), in the order
//!                              of their keys. A cell of several stages is in the pack of the first, in the order of the study
//! hashes/<stage>.bin           activations that the stage puts into other runs: for each the key of its cell and the BLAKE3 hash of its values, 32
//!                              bytes each, in the order of the keys
//! records/<stage>.json         what the cache has of the stage: `{"key": …, "record": …}`
//! withheld.json                where prompts are withheld: whose, and what is missing for that
//! ```
//!
//! A stage without cells of its own has no pack. Activations of which a stage needs no more than to put them into other runs are left out, but for
//! their hashes: they are most of the bytes, and are computed again by whoever has the model. A model that no stage uses is not in the file, nor in its `study.toml`; every prompt set is.
//!
//! Of a prompt set that is withheld there is no text, nor one that a model wrote after it. Stages that rest on it have their tables, without
//! columns of texts, and neither cells nor records: keys are hashes of what was asked. Nor is there another plain hash of it, so that the run
//! has another key, too.
//!
//! No path of the author's machine is in it. A file that is written into the archive names others by their place in the archive; where the
//! author's own text names a path of the machine, `…/<file name>` stands there.
//!
//! ```text
//! layout       the names of all these
//! write        the archive
//! again        a run's stages made once more, from stored values
//! export       a run into an archive
//! read         an archive of anybody's, held against limits before anything is taken out of it
//! inside       whether what an archive holds stays in its folder
//! withheld     prompt sets that an archive does without
//! unpack       an archive as a folder in which its study goes on
//! verify       an archive, checked: its files, what follows from them, and some of its values computed again
//! out          no archive: a run's direction in files of other programs, and its model without it
//! ```

mod again;
mod export;
mod inside;
mod layout;
mod out;
mod read;
mod unpack;
mod verify;
mod withheld;
mod write;

pub(crate) use export::{ExportError, Exported, Options as ExportOptions, Step, export};
pub(crate) use out::{
    Form, OutError, VectorOptions, WeightsOptions, Which, WrittenVector, WrittenWeights,
    write_vector, write_weights,
};
pub(crate) use unpack::{Unpacked, unpack};
pub(crate) use verify::{
    Options as VerifyOptions, Outcome, Problem, Recomputed, Step as VerifyStep, Verified,
    VerifyError, Wanted, page as verification_page, percent as share_of, remove_what_is_left,
    verify,
};
