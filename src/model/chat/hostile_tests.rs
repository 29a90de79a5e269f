//! Templates that ask for everything: each must end in an error, or in a text of bounded length, without taking the program along.

use super::*;

/// What a template makes of a short conversation.
fn outcome(source: &str) -> Result<String, String> {
    let template = ChatTemplate::new(source, BTreeMap::new()).map_err(|error| error.to_string())?;
    let messages = [Message::new("user", "Why is the sky blue?")];
    let text = template.render(&messages, true);
    text.map_err(|error| error.to_string())
}

fn is_refused(source: &str) {
    let shown: String = source.chars().take(60).collect();
    match outcome(source) {
        Err(error) => assert!(error.len() < 2000 && error.lines().count() < 20, "{error}"),
        Ok(text) => panic!("{shown} gave {} bytes", text.len()),
    }
}

/// A namespace with `a`, changed by a statement as many times.
fn repeated(first: &str, statement: &str, times: usize, last: &str) -> String {
    format!(
        "{{% set ns = namespace(a={first}) %}}{{% for i in range({times}) %}}{statement}{{% endfor %}}{last}"
    )
}

#[test]
fn loops_without_end() {
    for inner in ["", "x", "{% set x = loop.index %}"] {
        let range = "range(100000)";
        is_refused(&format!(
            "{{% for i in {range} %}}{{% for j in {range} %}}{inner}{{% endfor %}}{{% endfor %}}"
        ));
    }
    is_refused("{% for i in range(10**9) %}x{% endfor %}");
    is_refused("{% for i in [1] * 10**9 %}x{% endfor %}");
    is_refused("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}");
    is_refused(
        "{% macro twice(n) %}{% if n > 0 %}{{ twice(n-1) }}{{ twice(n-1) }}{% endif %}{% endmacro %}{{ twice(40) }}",
    );
    is_refused("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}");
}

#[test]
fn strings_that_grow() {
    for statement in [
        "{% set ns.a = ns.a + ns.a %}",
        "{% set ns.a = ns.a ~ ns.a %}",
        "{% set ns.a = ns.a * 2 %}",
        "{% set ns.a = ns.a | replace('a', 'aa') %}",
        "{% set ns.a = ns.a.replace('a', 'aa') %}",
        "{% set ns.a = ns.a | join('aa') %}",
        "{% set ns.a = '{}{}'.format(ns.a, ns.a) %}",
        "{% set ns.a = '%s%s' | format(ns.a, ns.a) %}",
        "{% set ns.a = [ns.a, ns.a] | join %}",
        "{% set ns.a = [ns.a, ns.a] | tojson %}",
        "{% set b %}{{ ns.a }}{{ ns.a }}{% endset %}{% set ns.a = b %}",
    ] {
        is_refused(&repeated("'aaaa'", statement, 60, "{{ ns.a }}"));
    }
    for expression in [
        "'a' * 10**9",
        "'%1000000000d' | format(1)",
        "'%.1000000000f' | format(1.5)",
        "'%*d' | format(1000000000, 1)",
        "'{:1000000000}'.format(1)",
        "'{:.1000000000f}'.format(1.5)",
        "'{:>1000000000}'.format('x')",
        "'x\nx' | indent(1000000000)",
        "[1, 2] | tojson(indent=1000000000)",
        "('a' * 100000) | replace('', 'a' * 100000)",
        "('a' * 100000).replace('', 'a' * 100000)",
        "('ab' * 10000).split('') | join('a' * 100000)",
        "('a' * 100000).join('b' * 100000)",
        "range(100000) | join('a' * 100000)",
        "([1] | batch(1000000000, 'x')) | list",
        "([1] | slice(1000000000)) | list",
        "[1] * 10**9",
        "(1, 2) * 10**9",
        "([1] * 10**9) ~ ''",
        "10 ** 10 ** 10",
        "strftime_now('%d' * 100000000)",
        "raise_exception('a' * 10000000)",
    ] {
        is_refused(&format!("{{{{ {expression} }}}}"));
    }
    is_refused(&format!(
        "{{{{ '{}'.format('a' * 100000) }}}}",
        "{0}".repeat(30000)
    ));
}

/// The engine's fuel does not see these: what is built is small, and what is written, compared or hashed is not.
#[test]
fn lists_that_hold_themselves_many_times_over() {
    for statement in [
        "{% set ns.a = [ns.a, ns.a] %}",
        "{% set ns.a = (ns.a, ns.a) %}",
        "{% set ns.a = {'x': ns.a, 'y': ns.a} %}",
        "{% set ns.a = ns.a + ns.a %}",
        "{% set ns.a = [ns.a] * 2 %}",
    ] {
        for last in [
            "{{ ns.a }}",
            "{{ ns.a ~ '' }}",
            "{{ ns.a | string }}",
            "{{ ns.a | tojson }}",
            "{{ '%s' | format(ns.a) }}",
            "{{ '{}'.format(ns.a) }}",
            "{{ [ns.a] | join }}",
        ] {
            is_refused(&repeated("[1]", statement, 45, last));
        }
    }
    let two = "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}";
    for compared in [
        "ns.a == ns.b",
        "ns.a in [ns.b]",
        "[ns.b].count(ns.a)",
        "[ns.a, ns.b] | sort | length",
    ] {
        is_refused(&format!(
            "{{% set ns = namespace(a=[1], b=[1]) %}}{{% for i in range(45) %}}{two}{{% endfor %}}{{{{ {compared} }}}}"
        ));
    }
}

#[test]
fn what_holds_itself() {
    for last in [
        "{{ ns }}",
        "{{ ns | tojson }}",
        "{{ ns ~ '' }}",
        "{{ ns | string }}",
        "{{ [ns] | join }}",
    ] {
        is_refused(&format!(
            "{{% set ns = namespace() %}}{{% set ns.a = ns %}}{last}"
        ));
        is_refused(&format!(
            "{{% set ns = namespace() %}}{{% set ns.a = [ns] %}}{last}"
        ));
    }
}

/// Deep values are made, written, compared and thrown away.
#[test]
fn values_nested_deeply() {
    let written = [
        "",
        "{{ ns.a }}",
        "{{ ns.a | tojson }}",
        "{{ ns.a == [ns.a] }}",
    ];
    for (statement, lasts) in [
        ("{% set ns.a = [ns.a] %}", &written[..]),
        ("{% set ns.a = {'x': ns.a} %}", &written[..3]),
        ("{% set ns.a = [[[[[[[[[[ns.a]]]]]]]]]] %}", &written[..]),
        ("{% set ns.a = ns.a[0:] %}", &written[..1]),
        ("{% set ns.a = ns.a[::-1] %}", &written[..2]),
        ("{% set ns.a = ns.a | batch(1) %}", &written[..2]),
        ("{% set ns.a = ns.a + [1] %}", &written[..1]),
    ] {
        for last in lasts {
            for times in [5_000, 90_000] {
                // Whether it is refused is the fuel's affair; that there is an answer is ours.
                if let Ok(text) = outcome(&repeated("[1]", statement, times, last)) {
                    assert!(text.len() <= MOST_RENDERED_BYTES);
                }
            }
        }
    }
}

#[test]
fn sources_that_are_long_or_nested_deeply() {
    is_refused(&format!("{{{{ {} }}}}", vec!["1"; 100_000].join("+")));
    let n = 30_000;
    for (open, middle, close) in [
        ("1+", "1", ""),
        ("-", "1", ""),
        ("not ", "1", ""),
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("a.", "a", ""),
        ("", "a", "()"),
        ("", "a", "[0]"),
        ("", "a", "|d"),
        ("1~", "1", ""),
        ("1**", "1", ""),
        ("1<", "1", ""),
        ("a if b else ", "c", ""),
        ("a and ", "c", ""),
        ("a is b is ", "c", ""),
    ] {
        let count = (n * 2 / (open.len() + close.len()).max(1)).min(n);
        let source = format!(
            "{{{{ {}{middle}{} }}}}",
            open.repeat(count),
            close.repeat(count)
        );
        let answer = outcome(&source);
        assert!(answer.is_err() || answer.is_ok_and(|text| text.len() < 100_000));
    }
    for (open, close) in [
        ("{% if 1 %}", "{% endif %}"),
        ("{% for i in [1] %}", "{% endfor %}"),
        ("{% with %}", "{% endwith %}"),
        ("{% generation %}", "{% endgeneration %}"),
        ("{% if 0 %}{% elif 0 %}", "{% endif %}"),
        ("{% set a %}", "{% endset %}"),
    ] {
        is_refused(&format!("{}x{}", open.repeat(3000), close.repeat(3000)));
    }
    let elifs = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(10_000));
    let targets = format!("{{% set {}a{} = 1 %}}", "(".repeat(n), ")".repeat(n));
    for source in [
        elifs,
        targets,
        "{".repeat(n),
        "{{".repeat(n),
        "{%".repeat(n),
        "{#".repeat(n),
    ] {
        let answer = outcome(&source);
        assert!(answer.is_err() || answer.is_ok_and(|text| text.len() <= source.len()));
    }
}

#[test]
fn texts_that_are_too_long() {
    let template = ChatTemplate::new("{{ messages[0].content }}", BTreeMap::new()).unwrap();
    let said = |length: usize| template.render(&[Message::new("user", "a".repeat(length))], true);
    assert_eq!(said(MOST_TEXT_BYTES).unwrap().len(), MOST_TEXT_BYTES);
    let error = said(MOST_TEXT_BYTES + 1).unwrap_err().to_string();
    assert_eq!(
        error,
        "chat template: the conversation has 1048577 bytes of text, expected at most 1048576"
    );
}

/// What a well-meant template needs stays far from every bound.
#[test]
fn a_long_prompt_through_a_template_that_copies_much_is_rendered() {
    let source = "{% for m in messages %}{% set c = m.content | trim %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{% set c = c.replace('a', 'b') %}<{{ m.role }}>{{ c ~ '' }}{% endfor %}";
    let template = ChatTemplate::new(source, BTreeMap::new()).unwrap();
    let long = "a word ".repeat(100_000);
    let text = template.render(&[Message::new("user", long.as_str())], true);
    assert_eq!(text.unwrap().len(), "<user>".len() + long.trim().len());
}
