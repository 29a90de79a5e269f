//! How a command ended, as its exit code tells it. The codes are stable: scripts rely on them.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Damaged = 3,
    NotReproduced = 4,
    Busy = 5,
    /// `doctor` found what a run would fail on.
    Unfit = 6,
    Interrupted = 130,
}

impl Exit {
    fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failed => {
                "a stage failed, or a file could not be read or written; of `diff`: the two differ"
            }
            Exit::Usage => "the command line or the study is wrong; nothing was run",
            Exit::Damaged => "`cache verify` found damage, and moved it aside",
            Exit::NotReproduced => {
                "`run --force` gave other bits than are cached; the cached ones are kept"
            }
            Exit::Busy => "`cache gc` deleted nothing, because a run is alive on the cache",
            Exit::Unfit => "`doctor` found a problem, which a run would fail on",
            Exit::Interrupted => "interrupted; what was computed is kept, the same command resumes",
        }
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
