//! What is in a key.

use super::*;

#[test]
fn the_weights() {
    assert_everything(&after_model(|folder| {
        write(
            folder,
            Recipe {
                seed: 9,
                ..INSTRUCT
            },
        )
    }));
}

#[test]
fn one_weight() {
    assert_everything(&after_model(|folder| {
        let path = folder.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        // The lowest bit of the last number.
        let at = bytes.len() - 4;
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }));
}

#[test]
fn the_configuration() {
    assert_everything(&after_model(|folder| {
        let mut config = config();
        config["rms_norm_eps"] = serde_json::json!(1e-5);
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    }));
}

#[test]
fn the_chat_template() {
    assert_everything(&after_model(|folder| {
        let path = folder.join("tokenizer_config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text.replace("<|im_end|>\\n", "<|im_end|> calm0\\n")).unwrap();
    }));
}

#[test]
fn the_dtype() {
    assert_everything(&after_set(&["models.inst.dtype=\"bfloat16\""]));
}

#[test]
fn the_system_message() {
    assert_everything(&after_set(&[
        "chat.system=\"You are a careful assistant.\"",
    ]));
    assert_everything(&after_set(&["chat.system=false"]));
}

#[test]
fn the_score_words() {
    let run = after_set(&["score.refuse=[\"Sorry\"]"]);
    assert_eq!((run.computed("score"), run.computed("random")), (20, 80));
    let run = after_set(&["score.comply=[\"Sure\"]"]);
    assert_eq!((run.computed("score"), run.computed("random")), (20, 80));
}

#[test]
fn the_dtype_of_the_score() {
    let run = after_set(&["score.dtype=\"model\""]);
    assert_eq!((run.computed("score"), run.computed("random")), (20, 80));
}

#[test]
fn the_text_of_a_prompt() {
    let run = after_prompts(|prompts| prompts.last_mut().unwrap().text = sentence(600, 5));
    // The eighth donor of the patch: its activation and the score it gives.
    let expected = [
        ("score", 1),
        ("steer", 2),
        ("random", 4),
        ("holdout", 2),
        ("patch", 2),
    ];
    assert_eq!(run.all_computed(), expected);
}

#[test]
fn alpha_and_its_unit() {
    assert_eq!(
        after_set(&["stages.steer.alpha=[-2, 0, 2.5]"]).all_computed(),
        [("steer", 20)]
    );
    assert_eq!(
        after_set(&["stages.steer.alpha_unit=\"pre_norm\""]).all_computed(),
        [("steer", 40)]
    );
    assert_eq!(
        after_set(&["stages.steer.alpha_unit=\"resid_norm\""]).all_computed(),
        [("steer", 40)]
    );
}

#[test]
fn the_layer_the_site_and_the_position_of_an_edit() {
    for field in ["layer=3", "site=\"resid_mid\"", "position=-2"] {
        assert_eq!(
            after_set(&[&format!("stages.steer.{field}")]).all_computed(),
            [("steer", 40)],
            "{field}"
        );
    }
}

#[test]
fn the_layer_the_site_and_the_position_of_an_activation() {
    for field in ["layer=3", "site=\"attn_out\"", "position=-2"] {
        let run = after_set(&[&format!("stages.direction.{field}")]);
        assert_eq!(
            run.all_computed(),
            [("direction", 8), ("steer", 40)],
            "{field}"
        );
    }
}

#[test]
fn the_content_of_a_direction() {
    assert_eq!(
        after_set(&["stages.direction.n=5"]).all_computed(),
        [("direction", 2), ("steer", 40)]
    );
}

#[test]
fn the_mode() {
    assert_eq!(
        after_edit(
            "alpha = [-2, 0, 2]\n\n[stages.random]",
            "mode = \"ablate\"\n\n[stages.random]"
        )
        .all_computed(),
        [("steer", 20)]
    );
    assert_eq!(
        after_edit(
            "alpha = [-2, 0, 2]\n\n[stages.random]",
            "mode = \"ablate_all\"\n\n[stages.random]"
        )
        .all_computed(),
        [("steer", 20)]
    );
}

#[test]
fn the_seed_of_a_random_direction() {
    assert_eq!(
        after_set(&["stages.random.seed=[5, 6]"]).all_computed(),
        [("random", 80)]
    );
}

#[test]
fn how_a_text_is_generated() {
    for fields in [
        &["max_new_tokens=4"][..],
        &["stop_at_end=false"],
        &["temperature=0.7"],
        &["temperature=0.7", "seed=3"],
        &["temperature=0.9"],
    ] {
        let overrides: Vec<String> = fields
            .iter()
            .map(|field| format!("stages.generate.{field}"))
            .collect();
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        assert_eq!(
            after_set(&overrides).all_computed(),
            [("generate", 4)],
            "{fields:?}"
        );
    }
}

#[test]
fn where_a_direction_acts_on_a_text() {
    let steered = "stages.generate.direction=\"direction\"";
    // Four texts; with the last prompt token edited also their scores, which the steer stage has at other α only.
    for (positions, count) in [("last_prompt", 8), ("generated", 4), ("both", 8)] {
        let positions = format!("stages.generate.positions=\"{positions}\"");
        let run = after_set(&[steered, "stages.generate.alpha=3", &positions]);
        assert_eq!(run.all_computed(), [("generate", count)], "{positions}");
    }
}
