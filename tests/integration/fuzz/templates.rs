//! Seeds of chat templates: those that take time, memory or stack without an end. Short ones are files.

use super::target::Seed;

/// A template as models have it.
pub const PLAIN: &str = "{% for m in messages %}<s>{{ m.role }} {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant{% endif %}";

pub const WORDS: &[&str] = &[
    "{%",
    "%}",
    "{{",
    "}}",
    "{#",
    "#}",
    "{%- ",
    " -%}",
    "{% endfor %}",
    "{% endif %}",
    "{% else %}",
    "{% elif x %}",
    "{% break %}",
    "{% continue %}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% macro m(x) %}",
    "{% endmacro %}",
    "{{ m(m) }}",
    "{% set x = x ~ x %}",
    "{% set ns.x = 1 %}",
    "{% for i in range(100000) %}",
    "{% for m in messages %}",
    "{% include 'chat template' %}",
    "{% extends 'chat template' %}",
    "{% block b %}{% endblock %}",
    "{% call(x) m() %}",
    "{% filter upper %}",
    "{% raw %}",
    "{% do x %}",
    "{% import 'chat template' as t %}",
    "messages",
    "[::-1]",
    "[-1]",
    "[99999999999]",
    "|tojson(indent=1000000000)",
    "|format",
    "'%1000000000d'|format(1)",
    "'%*d'|format(1000000000, 1)",
    "|indent(1000000000)",
    "|replace('', 'xxxxxxxx')",
    "|join('x')",
    "|list",
    "|batch(0)",
    "|slice(0)",
    "|default(x)",
    "|map('upper')",
    "|sort",
    "|length",
    "|trim",
    "|truncate",
    "|wordwrap(1)",
    "range(1000000000000)",
    "range(0, 10, 0)",
    "** 1000000",
    "* 1000000000",
    "// 0",
    "% 0",
    "~",
    "'x' * 1000000000",
    "[0] * 1000000000",
    "loop.index",
    "loop(messages)",
    "namespace(x=1)",
    "dict(x=1)",
    "cycler(1)",
    "joiner()",
    "lipsum()",
    "raise_exception('x')",
    "strftime_now('%10000000000Y')",
    ".split('')",
    ".replace('', 'x')",
    ".center(1000000000)",
    ".ljust(1000000000)",
    ".zfill(1000000000)",
    ".items()",
    ".join([])",
    ".startswith(1)",
    ".count('')",
    "((((",
    "))))",
    "not not ",
    "é",
];

pub fn seeds() -> Vec<Seed> {
    let loops = |depth: usize| {
        let open: String = (0..depth)
            .map(|i| format!("{{% for i{i} in range(1000) %}}"))
            .collect();
        format!("{open}x{}", "{% endfor %}".repeat(depth))
    };
    let doubling = format!(
        "{{% set x = 'xxxxxxxx' %}}{}{{{{ x|length }}}}",
        "{% set x = x ~ x %}".repeat(60)
    );
    let in_loop = "{% set ns = namespace(x='x') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
    let list = "{% set ns = namespace(x=[0]) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}";
    let made = [
        ("plain", PLAIN.to_string()),
        ("loops-nested", loops(6)),
        ("loops-nested-silent", loops(6).replace('x', "")),
        ("strings-double", doubling),
        ("strings-double-in-a-loop", in_loop.to_string()),
        ("lists-double-in-a-loop", list.to_string()),
        (
            "terms-100000",
            format!("{{{{ 1{} }}}}", "+1".repeat(100_000)),
        ),
        (
            "joins-100000",
            format!("{{{{ 'a'{} }}}}", "~'a'".repeat(100_000)),
        ),
        (
            "parentheses-100000",
            format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)),
        ),
        (
            "lists-100000",
            format!("{{{{ {}{} }}}}", "[".repeat(100_000), "]".repeat(100_000)),
        ),
        (
            "nots-100000",
            format!("{{{{ {}1 }}}}", "not ".repeat(100_000)),
        ),
        (
            "minuses-100000",
            format!("{{{{ {}1 }}}}", "-".repeat(100_000)),
        ),
        (
            "filters-100000",
            format!("{{{{ 'a'{} }}}}", "|upper".repeat(100_000)),
        ),
        (
            "attributes-100000",
            format!("{{{{ messages{} }}}}", ".a".repeat(100_000)),
        ),
        (
            "subscripts-100000",
            format!("{{{{ messages{} }}}}", "[0]".repeat(100_000)),
        ),
        (
            "ifs-nested",
            format!(
                "{}x{}",
                "{% if true %}".repeat(50_000),
                "{% endif %}".repeat(50_000)
            ),
        ),
        (
            "elifs-50000",
            format!(
                "{{% if false %}}{}{{% endif %}}",
                "{% elif false %}x".repeat(50_000)
            ),
        ),
        (
            "ternaries-50000",
            format!("{{{{ {}1 }}}}", "1 if false else ".repeat(50_000)),
        ),
        ("long", "x".repeat(8 << 20)),
    ];
    made.into_iter()
        .map(|(name, text)| Seed::new(name, text))
        .collect()
}
