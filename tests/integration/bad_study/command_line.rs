//! Command lines and overrides that make no sense.

use insta::assert_snapshot;

use super::{STUDY, bench, refusal_of, refusal_of_set};

#[test]
fn a_bad_override() {
    assert_snapshot!(refusal_of_set("stages.steer.alpha"), @r"
    error: an override is written `path.to.key=value`, not `stages.steer.alpha`
     |
     | --set stages.steer.alpha
     |       ^^^^^^^^^^^^^^^^^^ there is no `=`
    ");
    assert_snapshot!(refusal_of_set("stages.steer.alpha=[1, x"), @r"
    error: `stages.steer.alpha` is the string `[1, x`, not a number
     |
     | --set stages.steer.alpha=[1, x
     |                          ^^^^^ expected a number
    ");
    assert_snapshot!(refusal_of_set("stages.steer.alpha=many"), @r"
    error: `stages.steer.alpha` is the string `many`, not a number
     |
     | --set stages.steer.alpha=many
     |                          ^^^^ expected a number
    ");
    assert_snapshot!(refusal_of_set("stages.stear.alpha=[1]"), @r"
    error: stage `stear` has no field `kind`
     |
     | --set stages.stear.alpha=[1]
     |              ^^^^^ did you mean the stage `steer`?
     |
     = help: a stage that is not named after its kind needs `kind`, one of `score`, `generate`, `patch`, `activations`, `direction`, `vector`, `combine`, `select`, `condition`, `independence`, `steer`, `holdout`, `random`, `xstest`, `cost`, `summary`, `import`
    ");
    assert_snapshot!(refusal_of_set("stages.direction.layer=12"), @r"
    error: layer `12` is out of range for model `inst`
     |
     | --set stages.direction.layer=12
     |                              ^^ the model has 4 layers, 0 to 3
    ");
}

#[test]
fn only_a_stage_that_is_not_there() {
    assert_snapshot!(refusal_of("sound.toml", STUDY, &["--only", "stear"]), @"error: the study has no stage `stear` to run with `--only`; did you mean `steer`?");
    assert_snapshot!(refusal_of("sound.toml", STUDY, &["--only", "x"]), @"error: the study has no stage `x` to run with `--only`; its stages are `score`, `direction`, `steer`");
}

#[test]
fn a_bad_command_line() {
    assert_snapshot!(refusal_of("sound.toml", STUDY, &["--device", "gpu"]), @r"
    error: invalid value 'gpu' for '--device <DEVICE>': unknown device `gpu`: expected `cpu` or `cuda:N`

    For more information, try '--help'.
    ");
    assert_snapshot!(bench().dial(&["run", "sound.toml", "--threads", "0"]).message(2), @r"
    error: invalid value '0' for '--threads <N>': 0 is not in 1..=65535

    For more information, try '--help'.
    ");
    assert_snapshot!(bench().dial(&["run"]).message(2), @r"
    error: the following required arguments were not provided:
      <FILE>

    Usage: dial run <FILE>

    For more information, try '--help'.
    ");
    assert_snapshot!(bench().dial(&["rum", "sound.toml"]).message(2), @r"
    error: unrecognized subcommand 'rum'

      tip: a similar subcommand exists: 'run'

    Usage: dial <COMMAND>

    For more information, try '--help'.
    ");
}
