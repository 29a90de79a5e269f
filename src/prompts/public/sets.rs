//! The sets, as they were found. Digits of hashes, sizes and counts are facts about files of others; where they are from, `data/README.md` says.

use super::Size::{About, Exactly, Unknown};
use super::{Home, Licence, Obstacle, PublicFile, PublicSet, Size};

/// Why a set is not fetched of which too little is known.
const UNCHECKED: &str = "neither a hash of its files nor their exact size is known here, so that what arrives could not be checked; get it by hand";

/// A licence that has an identifier.
const fn spdx(name: &'static str) -> Licence {
    Licence {
        name: Some(name),
        note: None,
    }
}

const fn noted(name: Option<&'static str>, note: &'static str) -> Licence {
    Licence {
        name,
        note: Some(note),
    }
}

const fn pinned(
    path: &'static str,
    rows: u64,
    size: Size,
    sha256: &'static str,
    columns: [Option<&'static str>; 4],
) -> PublicFile {
    PublicFile {
        path,
        rows,
        size,
        sha256,
        columns,
    }
}

const fn by_hand(
    path: &'static str,
    rows: u64,
    size: Size,
    columns: [Option<&'static str>; 4],
) -> PublicFile {
    pinned(path, rows, size, "", columns)
}

const USUAL: [Option<&str>; 4] = [None; 4];
const OR_BENCH: [Option<&str>; 4] = [None, Some("prompt"), None, Some("category")];
const JBB: [Option<&str>; 4] = [Some("Index"), Some("Goal"), None, Some("Category")];
const HARMBENCH: [Option<&str>; 4] = [
    Some("BehaviorID"),
    Some("Behavior"),
    Some("FunctionalCategory"),
    Some("SemanticCategory"),
];
const SPLITS: [Option<&str>; 4] = [None, Some("instruction"), None, Some("category")];
const FALSE_REJECT: [Option<&str>; 4] = [None, Some("prompt"), None, Some("category_text")];
const TEXT: [Option<&str>; 4] = [None, Some("text"), None, None];

const REFUSAL_DIRECTION: Home = Home::GitHub("andyrdt/refusal_direction");
const REFUSAL_DIRECTION_COMMIT: Option<&str> = Some("9d852fae1a9121c78b29142de733cb1340770cc3");
const ARDITI: &str = "Arditi, Obeso, Syed, Paleka, Panickssery, Gurnee, Nanda: \"Refusal in Language Models Is Mediated by a Single Direction\", 2024";

/// Every set, in the order in which it is listed.
pub(crate) const SETS: &[PublicSet] = &[
    PublicSet {
        name: "xstest",
        title: "XSTest v2: safe prompts that sound unsafe, and unsafe contrasts",
        credit: "Röttger, Kirk, Vidgen, Attanasio, Bianchi, Hovy: \"XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in Large Language Models\", NAACL 2024",
        home: Home::GitHub("paul-rottger/xstest"),
        commit: Some("475f10bf0a3d6a9dfb174b6de1a38afbfdff98a5"),
        licence: spdx("CC-BY-4.0"),
        files: &[pinned(
            "xstest_prompts.csv",
            450,
            Exactly(38_719),
            "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
            USUAL,
        )],
        obstacle: None,
        hint: Some(
            "its splits are `safe` and `unsafe`; with `draw` they become `edge` and `harmful`; the contrast of a safe prompt, where it has one, is the prompt whose id is larger by 25",
        ),
    },
    PublicSet {
        name: "or-bench",
        title: "OR-Bench: hard prompts that are refused too often, and toxic ones",
        credit: "Cui, Chiang, Stoica, Hsieh: \"OR-Bench: An Over-Refusal Benchmark for Large Language Models\", 2024",
        home: Home::Hub("bench-llm/or-bench"),
        commit: Some("e36d8b80e81837c8a8f264bbb2a49f1b32c7e272"),
        licence: spdx("CC-BY-4.0"),
        files: &[
            pinned(
                "or-bench-hard-1k.csv",
                1319,
                Exactly(169_255),
                "a6e2f1166416efe5901f3bb05c47dc92ab3aca3acfe143693d38b8057d841e6d",
                OR_BENCH,
            ),
            pinned(
                "or-bench-toxic.csv",
                655,
                About(64_700),
                "3be45901faae3b4b2b51bf7f8a2784c1650a1cc8c631dbc8b171d5312d4e0057",
                OR_BENCH,
            ),
        ],
        obstacle: None,
        hint: None,
    },
    PublicSet {
        name: "or-bench-80k",
        title: "OR-Bench: all prompts that may be refused too often",
        credit: "Cui, Chiang, Stoica, Hsieh: \"OR-Bench: An Over-Refusal Benchmark for Large Language Models\", 2024",
        home: Home::Hub("bench-llm/or-bench"),
        commit: None,
        licence: spdx("CC-BY-4.0"),
        files: &[by_hand(
            "or-bench-80k.csv",
            80_359,
            About(11_100_000),
            OR_BENCH,
        )],
        obstacle: Some(Obstacle {
            is_gated: false,
            told: UNCHECKED,
        }),
        hint: None,
    },
    PublicSet {
        name: "phtest",
        title: "PHTest: pseudo-harmful prompts",
        credit: "An, Zhu, Zhang and others: \"Automatic Pseudo-Harmful Prompt Generation for Evaluating False Refusals in Large Language Models\", 2024",
        home: Home::Hub("furonghuang-lab/PHTest"),
        commit: None,
        licence: spdx("MIT"),
        files: &[by_hand(
            "PHTest.csv",
            3269,
            About(666_000),
            [Some("ID"), Some("Request"), Some("Harmfulness"), None],
        )],
        obstacle: Some(Obstacle {
            is_gated: false,
            told: UNCHECKED,
        }),
        hint: None,
    },
    PublicSet {
        name: "falsereject",
        title: "FalseReject: harmless prompts that look harmful",
        credit: "Amazon Science, FalseReject",
        home: Home::Hub("AmazonScience/FalseReject"),
        commit: None,
        licence: spdx("CC-BY-NC-4.0"),
        files: &[
            by_hand("train.jsonl", 14_624, About(75_700_000), FALSE_REJECT),
            by_hand("test.jsonl", 1187, About(286_000), FALSE_REJECT),
        ],
        obstacle: Some(Obstacle {
            is_gated: false,
            told: UNCHECKED,
        }),
        hint: Some("the names of its files are to be looked up on its page"),
    },
    PublicSet {
        name: "sorry-bench",
        title: "SORRY-Bench: 44 kinds of prompts that are to be refused",
        credit: "Xie and others: \"SORRY-Bench: Systematically Evaluating Large Language Model Safety Refusal\", 2024",
        home: Home::Hub("sorry-bench/sorry-bench-202503"),
        commit: None,
        licence: noted(
            Some("LicenseRef-SORRY-Bench"),
            "its own, which forbids to pass it on",
        ),
        files: &[by_hand(
            "question.jsonl",
            440,
            Unknown,
            [Some("question_id"), Some("prompt"), None, Some("category")],
        )],
        obstacle: Some(Obstacle {
            is_gated: true,
            told: "it is gated: log in on its page, accept its terms, and download it with your own token",
        }),
        hint: Some(
            "a question is a list of one text, `turns`: write that text as a field `prompt` of each line before a study reads it; 440 questions are of the style `base`",
        ),
    },
    PublicSet {
        name: "jbb",
        title: "JailbreakBench, JBB-Behaviors: harmful ones, and harmless ones of the same subjects",
        credit: "Chao, Debenedetti, Robey, Andriushchenko and others: \"JailbreakBench: An Open Robustness Benchmark for Jailbreaking Large Language Models\", 2024",
        home: Home::Hub("JailbreakBench/JBB-Behaviors"),
        commit: Some("886acc352a31533ffbcf4ef22c744658688086fc"),
        licence: spdx("MIT"),
        files: &[
            pinned(
                "data/harmful-behaviors.csv",
                100,
                Exactly(23_116),
                "4a8ec6832056b631eb092dccc60d37a61c3d441268268888b3d006288afeffa1",
                JBB,
            ),
            pinned(
                "data/benign-behaviors.csv",
                100,
                Exactly(20_570),
                "3cda234d21a991fa309bbfea4b6d9dae31ccdf8e9d452424b6a983e4fdc33468",
                JBB,
            ),
        ],
        obstacle: None,
        hint: None,
    },
    PublicSet {
        name: "harmbench",
        title: "HarmBench: behaviours as texts",
        credit: "Mazeika and others: \"HarmBench: A Standardized Evaluation Framework for Automated Red Teaming and Robust Refusal\", ICML 2024",
        home: Home::GitHub("centerforaisafety/HarmBench"),
        commit: Some("8e1604d1171fe8a48d8febecd22f600e462bdcdd"),
        licence: spdx("MIT"),
        files: &[
            pinned(
                "data/behavior_datasets/harmbench_behaviors_text_test.csv",
                320,
                Exactly(160_828),
                "75d257b3e7428c52eb7b0154318f455af3e01b09a3794b5e2f3d36054f3c0e29",
                HARMBENCH,
            ),
            pinned(
                "data/behavior_datasets/harmbench_behaviors_text_val.csv",
                80,
                Exactly(38_024),
                "7bfaaa5e2b9b95002c89e2d33c019f58e9e8496e2fc65d368f1eeb8179e69534",
                HARMBENCH,
            ),
        ],
        obstacle: None,
        hint: Some(
            "its splits are `standard`, `contextual` and `copyright`; refusal_direction takes `standard` alone (159 and 41 prompts)",
        ),
    },
    PublicSet {
        name: "strongreject",
        title: "StrongREJECT: forbidden prompts",
        credit: "Souly and others: \"A StrongREJECT for Empty Jailbreaks\", NeurIPS 2024",
        home: Home::GitHub("alexandrasouly/strongreject"),
        commit: Some("f7cad6c17e624e21d8df2278e918ae1dddb4cb56"),
        licence: noted(
            Some("MIT"),
            "prompts that it took from others are under the licences of these",
        ),
        files: &[pinned(
            "strongreject_dataset/strongreject_dataset.csv",
            313,
            Exactly(56_359),
            "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",
            [None, Some("forbidden_prompt"), None, Some("category")],
        )],
        obstacle: None,
        hint: None,
    },
    PublicSet {
        name: "advbench",
        title: "AdvBench: harmful behaviours",
        credit: "Zou, Wang, Carlini, Nasr, Kolter, Fredrikson: \"Universal and Transferable Adversarial Attacks on Aligned Language Models\", 2023",
        home: Home::GitHub("llm-attacks/llm-attacks"),
        commit: Some("098262edf85f807224e70ecd87b9d83716bf6b73"),
        licence: spdx("MIT"),
        files: &[pinned(
            "data/advbench/harmful_behaviors.csv",
            520,
            Exactly(82_125),
            "6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1",
            [None, Some("goal"), None, None],
        )],
        obstacle: None,
        hint: None,
    },
    PublicSet {
        name: "malicious-instruct",
        title: "MaliciousInstruct: malicious instructions of ten kinds",
        credit: "Huang, Gupta, Xia, Li, Chen: \"Catastrophic Jailbreak of Open-source LLMs via Exploiting Generation\", 2023",
        home: Home::GitHub("Princeton-SysML/Jailbreak_LLM"),
        commit: Some("1e490531c0ef4bc13430178bf1fbc8f813e34b1a"),
        licence: noted(None, "none is stated; a mirror says CC-BY-SA-4.0"),
        files: &[pinned(
            "data/MaliciousInstruct.txt",
            100,
            Exactly(6269),
            "a64d69dd1004aac4a23aaff3748fb8f17161893f74db36f45b8bc849eb1bcce5",
            USUAL,
        )],
        obstacle: None,
        hint: None,
    },
    PublicSet {
        name: "tdc2023",
        title: "Trojan Detection Challenge 2023, red teaming: behaviours",
        credit: "Center for AI Safety: the Trojan Detection Challenge 2023, from the copies in refusal_direction",
        home: REFUSAL_DIRECTION,
        commit: REFUSAL_DIRECTION_COMMIT,
        licence: noted(
            Some("MIT"),
            "that of the challenge's starter kit, as far as is known",
        ),
        files: &[
            pinned(
                "dataset/raw/tdc2023_dev_behaviors.json",
                50,
                Exactly(4080),
                "9392c63ad019",
                USUAL,
            ),
            pinned(
                "dataset/raw/tdc2023_test_behaviors.json",
                50,
                Exactly(3740),
                "c4a630921005",
                USUAL,
            ),
        ],
        obstacle: None,
        hint: None,
    },
    PublicSet {
        name: "rd-harmful",
        title: "refusal_direction: the harmful prompts of its splits",
        credit: ARDITI,
        home: REFUSAL_DIRECTION,
        commit: REFUSAL_DIRECTION_COMMIT,
        licence: noted(
            Some("Apache-2.0"),
            "that of the repository; the prompts are those of AdvBench, MaliciousInstruct, TDC2023, HarmBench and others",
        ),
        files: &[
            pinned(
                "dataset/splits/harmful_train.json",
                260,
                Exactly(34_613),
                "8f5c0eac0efd2a7f99084bbe8d0de2c465e31b1997184783c917969d9de9ece1",
                SPLITS,
            ),
            pinned(
                "dataset/splits/harmful_val.json",
                39,
                About(6763),
                "305f1d1e6dfa6c50a32d24a18ef815f42b5441eb83e6d7767d242107162fd9f4",
                SPLITS,
            ),
            pinned(
                "dataset/splits/harmful_test.json",
                572,
                About(115_743),
                "5e12ae102c3791dee083a69ab6269a78e033411c629bc3f66f75d2fde196d9ef",
                SPLITS,
            ),
        ],
        obstacle: None,
        hint: None,
    },
    PublicSet {
        name: "rd-harmless",
        title: "refusal_direction: the harmless prompts of its splits, which are Alpaca's without an input",
        credit: ARDITI,
        home: REFUSAL_DIRECTION,
        commit: REFUSAL_DIRECTION_COMMIT,
        licence: noted(
            Some("CC-BY-NC-4.0"),
            "that of Alpaca, whose instructions they are; the repository itself is Apache-2.0",
        ),
        files: &[
            pinned(
                "dataset/splits/harmless_train.json",
                18_793,
                Exactly(2_344_466),
                "86623b1f8a25aa35df153fc97a556dbcebb6a7c881538ae43ee479ca17f2e002",
                SPLITS,
            ),
            pinned(
                "dataset/splits/harmless_val.json",
                6264,
                About(780_532),
                "772010758e7d771ef4c7e5e4acdfd7598dcece1a6f383f20d382f640913a2a4d",
                SPLITS,
            ),
            pinned(
                "dataset/splits/harmless_test.json",
                6266,
                About(783_466),
                "1b5930ce5e855ada758b3116ce7c4aaea9b9d05f8cdd77b385511d4c84173b19",
                SPLITS,
            ),
        ],
        obstacle: None,
        hint: None,
    },
    PublicSet {
        name: "cast-demo",
        title: "CAST: pairs of a harmful and a harmless prompt",
        credit: "Lee and others: \"Programming Refusal with Conditional Activation Steering\", ICLR 2025",
        home: Home::GitHub("IBM/activation-steering"),
        commit: None,
        licence: noted(
            Some("Apache-2.0"),
            "that of the repository; harmless prompts are Alpaca's and others'",
        ),
        files: &[by_hand(
            "docs/demo-data/condition_harmful.json",
            4500,
            Exactly(1_155_565),
            [None, Some("prompt"), Some("split"), None],
        )],
        obstacle: Some(Obstacle {
            is_gated: false,
            told: "its file holds pairs (4,050 to learn from, 450 to test), which no prompt set reads: write each of a pair as a line with `split` and `prompt`",
        }),
        hint: None,
    },
    PublicSet {
        name: "mlabonne",
        title: "mlabonne's harmful behaviours, as heretic reads them",
        credit: "the set `mlabonne/harmful_behaviors` of the hub; heretic reads it beside `mlabonne/harmless_alpaca`",
        home: Home::Hub("mlabonne/harmful_behaviors"),
        commit: None,
        licence: noted(None, "none is stated"),
        files: &[
            by_hand("train.parquet", 416, About(20_000), TEXT),
            by_hand("test.parquet", 104, Unknown, TEXT),
        ],
        obstacle: Some(Obstacle {
            is_gated: false,
            told: UNCHECKED,
        }),
        hint: Some("the names of its files are to be looked up on its page"),
    },
    PublicSet {
        name: "alpaca",
        title: "Alpaca: instructions",
        credit: "Taori, Gulrajani, Zhang, Dubois, Li, Guestrin, Liang, Hashimoto: \"Stanford Alpaca: An Instruction-following LLaMA Model\", 2023",
        home: Home::Hub("tatsu-lab/alpaca"),
        commit: Some("dce01c9b08f87459cf36a430d809084718273017"),
        licence: noted(
            Some("CC-BY-NC-4.0"),
            "as its card says; its repository's data licence is another",
        ),
        files: &[pinned(
            "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
            52_002,
            Unknown,
            "06391b656a06fd3fb9d213160ef2398796c3b7f3dc75ef1e3ced30d461517073",
            [None, Some("instruction"), None, None],
        )],
        obstacle: None,
        hint: Some(
            "20,679 of the instructions speak of an `input`, which a prompt set leaves out; those without are the set `rd-harmless`",
        ),
    },
    PublicSet {
        name: "alpaca-eval",
        title: "AlpacaEval: instructions to compare models by",
        credit: "Li, Zhang, Dubois, Taori and others: \"AlpacaEval: An Automatic Evaluator of Instruction-following Models\", 2023",
        home: Home::Hub("tatsu-lab/alpaca_eval"),
        commit: None,
        licence: spdx("CC-BY-NC-4.0"),
        files: &[by_hand(
            "alpaca_eval.json",
            805,
            About(620_000),
            [None, Some("instruction"), None, Some("dataset")],
        )],
        obstacle: Some(Obstacle {
            is_gated: false,
            told: UNCHECKED,
        }),
        hint: None,
    },
    PublicSet {
        name: "tinymmlu",
        title: "tinyMMLU: 100 questions that stand for MMLU, and 285 to show the form",
        credit: "Maia Polo and others: \"tinyBenchmarks: evaluating LLMs with fewer examples\", 2024",
        home: Home::Hub("tinyBenchmarks/tinyMMLU"),
        commit: None,
        licence: noted(None, "none is stated; MMLU itself is MIT"),
        files: &[by_hand(
            "test.parquet",
            100,
            About(1_700_000),
            [None, Some("input_formatted"), None, Some("subject")],
        )],
        obstacle: Some(Obstacle {
            is_gated: false,
            told: UNCHECKED,
        }),
        hint: Some("the names of its files are to be looked up on its page"),
    },
];
