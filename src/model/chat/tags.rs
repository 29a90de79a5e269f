//! `{% generation %}` … `{% endgeneration %}`: marks that transformers adds to the language for training, around what the assistant says.
//! They write nothing, so they are read as a block that does nothing.

/// Bytes of one `{{ … }}` or `{% … %}`; the engine's time to compile one grows with the square of its terms.
const MOST_TAG_BYTES: usize = 16 << 10;

/// The template with each such tag as `{% with %}` or `{% endwith %}`, which open a scope as they do; spaces, line ends and the signs for
/// trimming stay. Strings, comments and raw blocks are left as they are.
pub(super) fn without_generation(source: &str) -> Result<String, String> {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        result.push_str(before);
        let length = match from.as_bytes().get(1) {
            Some(b'#') => through(from, "#}"),
            Some(b'{') => code_length(from, "}}")?,
            Some(b'%') => {
                let tag = &from[..code_length(from, "%}")?];
                if let Some(instead) = instead_of(tag) {
                    result.push_str(&instead);
                    rest = &from[tag.len()..];
                    continue;
                }
                match word(tag) {
                    "raw" => tag.len() + through_raw(&from[tag.len()..]),
                    _ => tag.len(),
                }
            }
            _ => 1,
        };
        let (kept, behind) = from.split_at(length);
        result.push_str(kept);
        rest = behind;
    }
    result.push_str(rest);
    Ok(result)
}

/// Bytes of a block that begins the text.
fn code_length(text: &str, end: &str) -> Result<usize, String> {
    match through_code(text, end) {
        length @ 0..=MOST_TAG_BYTES => Ok(length),
        length => Err(format!(
            "one of its expressions is {length} bytes long, expected at most {MOST_TAG_BYTES}"
        )),
    }
}

/// Bytes up to the first `end` and through it; all where there is none.
fn through(text: &str, end: &str) -> usize {
    text.find(end).map_or(text.len(), |at| at + end.len())
}

/// Bytes of a block that begins the text, through its `end`, which inside a string is none.
fn through_code(text: &str, end: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 2;
    let (mut quote, mut braces) = (None, 0usize);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, b'{') => braces += 1,
            (None, b'}') if braces > 0 => braces -= 1,
            (None, _) if bytes[at..].starts_with(end.as_bytes()) => return at + end.len(),
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// Bytes through the tag that ends a raw block.
fn through_raw(text: &str) -> usize {
    let mut at = 0;
    while let Some(next) = text[at..].find("{%") {
        at += next;
        let tag = &text[at..][..through(&text[at..], "%}")];
        if word(tag) == "endraw" {
            return at + tag.len();
        }
        at += 2;
    }
    text.len()
}

/// What a tag holds, without its braces and signs.
fn inside(tag: &str) -> &str {
    let inner = tag.get(2..tag.len().max(4) - 2).unwrap_or_default();
    inner
        .trim_start_matches(['-', '+'])
        .trim_end_matches(['-', '+'])
}

/// The word that a tag begins with.
fn word(tag: &str) -> &str {
    let inner = inside(tag).trim_start();
    let end = inner.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &inner[..end.unwrap_or(inner.len())]
}

/// The tag to read in its place, for one of the two.
fn instead_of(tag: &str) -> Option<String> {
    let name = inside(tag).trim();
    let instead = match name {
        "generation" => "with",
        "endgeneration" => "endwith",
        _ => return None,
    };
    Some(tag.replacen(name, instead, 1))
}

#[cfg(test)]
mod tests {
    fn without_generation(source: &str) -> String {
        super::without_generation(source).unwrap()
    }

    #[test]
    fn tags_are_replaced_in_every_spelling() {
        for (tag, instead) in [
            ("{% generation %}", "{% with %}"),
            ("{%generation%}", "{%with%}"),
            ("{%- generation -%}", "{%- with -%}"),
            ("{%+ generation +%}", "{%+ with +%}"),
            ("{%\n  endgeneration\t-%}", "{%\n  endwith\t-%}"),
        ] {
            assert_eq!(without_generation(tag), instead);
            let around = format!("é{{a}} {tag} {{{{ b }}}}");
            assert_eq!(
                without_generation(&around),
                format!("é{{a}} {instead} {{{{ b }}}}")
            );
        }
    }

    #[test]
    fn strings_comments_raw_blocks_and_other_names_are_left_alone() {
        for text in [
            "{{ '{% generation %}' }}",
            r#"{{ "\"{% generation %}" ~ '}}' ~ "{% endgeneration %}" }}"#,
            "{% set x = '{% generation %}' %}",
            "{% set x = '%} {% generation %}' %}",
            "{{ {'a': {'b': 1}} ~ '{% generation %}' }}",
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{% endraw %}",
            "{%- raw -%} {{ {% generation %} {%- endraw %}",
            "{% if generation %}{% endif %}",
            "{% generation_prompt %}",
            "{{ generation }} generation { % generation %}",
            "{% generation",
            "{%",
            "{",
            "{{ 'open",
            "{# open {% generation %}",
            "{% raw %}{% generation %}",
            "{%}",
            "{%%}",
        ] {
            assert_eq!(without_generation(text), text);
        }
    }

    #[test]
    fn what_follows_a_raw_block_is_read_again() {
        let text = "{% raw %}{% generation %}{% endraw %}{% generation %}";
        assert_eq!(
            without_generation(text),
            "{% raw %}{% generation %}{% endraw %}{% with %}"
        );
    }
}
