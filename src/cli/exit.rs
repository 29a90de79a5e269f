//! How a command ended, as its exit code tells it. The codes are stable: scripts rely on them. What each means is shown in `dial --help`.

use clap::ValueEnum;
use clap::builder::PossibleValue;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Exit {
    /// done
    Done = 0,
    /// a stage failed, or a file could not be read or written; of `diff`: the two differ
    Failed = 1,
    /// the command line or the study is wrong; nothing was run
    Usage = 2,
    /// `cache verify` found damage, and moved it aside
    Damaged = 3,
    /// `run --force` gave other bits than are cached; the cached ones are kept
    NotReproduced = 4,
    /// `cache gc` deleted nothing, because a run is alive on the cache
    Busy = 5,
    /// `doctor` found a problem, which a run would fail on
    Unfit = 6,
    /// `run --locked` or `lock --check` found another study, or strictly another environment, than its lock has; nothing was computed
    Differs = 7,
    /// `verify` found something in a shared file that is not as it should be
    Disagrees = 8,
    /// `verify` could not check all that was asked; what it checked agrees
    Unchecked = 9,
    /// interrupted; what was computed is kept, the same command resumes
    Interrupted = 130,
}

impl Exit {
    fn meaning(self) -> String {
        let value = self.to_possible_value();
        let help = value.as_ref().and_then(PossibleValue::get_help);
        help.map_or(String::new(), ToString::to_string)
    }

    /// The part of `dial --help` about exit codes.
    pub(super) fn help() -> String {
        let line = |exit: &Exit| format!("  {:>3}  {}\n", *exit as u8, exit.meaning());
        let lines: String = Exit::value_variants().iter().map(line).collect();
        format!("Exit codes:\n{}", lines.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page that people read says the same as the program.
    #[test]
    fn every_code_is_documented() {
        let page = include_str!("../../docs/commands.md");
        for exit in Exit::value_variants() {
            let row = format!("| {} | {} |", *exit as u8, exit.meaning());
            assert!(page.contains(&row), "docs/commands.md lacks {row}");
        }
    }
}
