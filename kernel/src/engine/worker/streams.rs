//! What a cell prints: text as it comes, rich outputs between `EVCXR_BEGIN_CONTENT` and `EVCXR_END_CONTENT`, and what
//! the crate `evcxr_input` asks.

use crate::cells::{Bundle, Output, Question};

const BEGIN: &str = "EVCXR_BEGIN_CONTENT";
const END: &str = "EVCXR_END_CONTENT";
const QUESTION: &str = "EVCXR_INPUT_REQUEST:";
const PASSWORD: &str = "EVCXR_INPUT_REQUEST_PASSWORD:";

/// Bytes of a stream that are not yet whole characters.
#[derive(Default)]
pub(super) struct Utf8(Vec<u8>);

impl Utf8 {
    /// The text that `bytes` complete; what is not UTF-8 becomes a replacement character.
    pub(super) fn decode(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.0) {
            Ok(_) => self.0.len(),
            // Without `error_len` the end is the beginning of a character.
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            Err(_) => incomplete_tail(&self.0),
        };
        let rest = self.0.split_off(whole);
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0 = rest;
        text
    }

    /// What is left when the stream ends in the middle of a character.
    pub(super) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

/// Where an unfinished character at the end of `bytes` begins, or their length.
fn incomplete_tail(bytes: &[u8]) -> usize {
    let len = bytes.len();
    (1..=3.min(len))
        .map(|back| len - back)
        .find(|&at| {
            std::str::from_utf8(&bytes[at..]).is_err_and(|e| e.error_len().is_none() && e.valid_up_to() == 0)
        })
        .unwrap_or(len)
}

/// Takes rich outputs and questions out of standard output.
#[derive(Default)]
pub(in crate::engine) struct Blocks {
    /// What the next line of input is about.
    question: Option<Question>,
    /// The beginning of a line that may become a marker, or the block so far.
    held: String,
    in_block: bool,
    mid_line: bool,
    bundle: Bundle,
    /// The next output is the cell's result.
    as_result: bool,
}

impl Blocks {
    pub(in crate::engine) fn push(&mut self, text: &str, on_output: &mut dyn FnMut(Output)) {
        let mut plain = String::new();
        for piece in text.split_inclusive('\n') {
            if self.in_block {
                self.held.push_str(piece);
                self.end_block();
            } else if self.mid_line {
                plain.push_str(piece);
                self.mid_line = !piece.ends_with('\n');
            } else {
                self.held.push_str(piece);
                self.line_start(&mut plain, on_output);
            }
        }
        self.text(plain, on_output);
    }

    /// Between these two the cell's last value shows itself: the first output in this time is the cell's result.
    pub(in crate::engine) fn result_begins(&mut self, on_output: &mut dyn FnMut(Output)) {
        self.finish_line(on_output);
        self.as_result = true;
    }

    pub(in crate::engine) fn result_ends(&mut self, on_output: &mut dyn FnMut(Output)) {
        self.finish_line(on_output);
        self.as_result = false;
    }

    /// What the input is about that the cell waits for.
    pub(in crate::engine) fn question(&mut self) -> Question {
        self.question.take().unwrap_or_default()
    }

    /// Called at the end of a cell, or before an output that has to come after all of this.
    pub(in crate::engine) fn finish(&mut self, on_output: &mut dyn FnMut(Output)) {
        let held = std::mem::take(&mut self.held);
        if std::mem::take(&mut self.in_block) {
            self.bundle.pop();
        }
        self.text(held, on_output);
        self.show(on_output);
        self.mid_line = false;
        self.as_result = false;
        self.question = None;
    }

    /// An output of another kind follows: what is held goes out first.
    pub(in crate::engine) fn finish_line(&mut self, on_output: &mut dyn FnMut(Output)) {
        if !self.in_block {
            let held = std::mem::take(&mut self.held);
            self.mid_line |= !held.is_empty();
            self.text(held, on_output);
        }
        self.show(on_output);
    }

    /// Emits rich outputs that are complete.
    fn show(&mut self, on_output: &mut dyn FnMut(Output)) {
        if !self.bundle.is_empty() && !self.in_block {
            let bundle = std::mem::take(&mut self.bundle);
            on_output(match std::mem::take(&mut self.as_result) {
                true => Output::Result(bundle),
                false => Output::Display { bundle, id: None },
            });
        }
    }

    fn line_start(&mut self, plain: &mut String, on_output: &mut dyn FnMut(Output)) {
        if let Some(mime) = self.held.strip_prefix(BEGIN) {
            if mime.ends_with('\n') {
                let mime = mime.trim().to_string();
                self.text(std::mem::take(plain), on_output);
                // Blocks of different types that follow each other are one output in several forms.
                if self.bundle.iter().any(|(known, _)| *known == mime) {
                    self.show(on_output);
                }
                self.bundle.push((mime, String::new()));
                self.held.clear();
                self.in_block = true;
            }
        } else if let Some(question) = question(&self.held) {
            if self.held.ends_with('\n') {
                self.question = Some(question);
                self.held.clear();
            }
        } else if ![BEGIN, QUESTION, PASSWORD].iter().any(|mark| mark.starts_with(self.held.as_str())) {
            self.mid_line = !self.held.ends_with('\n');
            plain.push_str(&std::mem::take(&mut self.held));
        }
    }

    fn end_block(&mut self) {
        let line_start = self.held.trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
        if self.held.ends_with('\n') && self.held[line_start..].trim_end() == END {
            if let Some((_, data)) = self.bundle.last_mut() {
                *data = self.held[..line_start.saturating_sub(1)].to_string();
            }
            self.held.clear();
            self.in_block = false;
        }
    }

    fn text(&mut self, text: String, on_output: &mut dyn FnMut(Output)) {
        if !text.is_empty() {
            self.show(on_output);
            on_output(Output::Stdout(text));
        }
    }
}

fn question(line: &str) -> Option<Question> {
    let (prompt, password) = match (line.strip_prefix(QUESTION), line.strip_prefix(PASSWORD)) {
        (Some(prompt), _) => (prompt, false),
        (_, Some(prompt)) => (prompt, true),
        _ => return None,
    };
    Some(Question { prompt: prompt.trim_end_matches(['\r', '\n']).into(), password })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(pieces: &[&str]) -> Vec<String> {
        let mut seen = Vec::new();
        let mut blocks = Blocks::default();
        let mut on_output = |output: Output| {
            seen.push(match output {
                Output::Stdout(text) => text,
                Output::Display { bundle, .. } => format!("{bundle:?}"),
                _ => "?".into(),
            });
        };
        for piece in pieces {
            blocks.push(piece, &mut on_output);
        }
        blocks.finish(&mut on_output);
        seen
    }

    #[test]
    fn blocks_of_two_types_become_one_bundle_however_they_arrive() {
        let all = "a\nEVCXR_BEGIN_CONTENT text/html\n<b>\nEVCXR_END_CONTENT\nEVCXR_BEGIN_CONTENT text/plain\nb\nEVCXR_END_CONTENT\nc";
        let expected = ["a\n", "[(\"text/html\", \"<b>\"), (\"text/plain\", \"b\")]", "c"];
        assert_eq!(outputs(&[all]), expected);
        let single: Vec<String> = all.chars().map(String::from).collect();
        let single: Vec<&str> = single.iter().map(String::as_str).collect();
        assert_eq!(outputs(&single).concat(), expected.concat());
    }

    #[test]
    fn a_question_is_not_shown_as_text_and_what_only_looks_like_one_is() {
        let mut blocks = Blocks::default();
        let mut seen = String::new();
        for letter in "a\nEVCXR_INPUT_REQUEST_PASSWORD:the word: \nEVCXR_INPUT_REQUESTED\nb".chars() {
            blocks.push(letter.encode_utf8(&mut [0; 4]), &mut |output| match output {
                Output::Stdout(text) => seen.push_str(&text),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(seen, "a\nEVCXR_INPUT_REQUESTED\nb");
        assert_eq!(blocks.question(), Question { prompt: "the word: ".into(), password: true });
        assert_eq!(blocks.question(), Question::default());
    }

    #[test]
    fn a_block_without_end_is_shown_as_text() {
        assert_eq!(outputs(&["EVCXR_BEGIN_CONTENT text/html\n<b>\n"]), ["<b>\n"]);
    }

    #[test]
    fn characters_cut_in_two_are_joined() {
        let mut utf8 = Utf8::default();
        let bytes = "é√".as_bytes();
        let text: String = bytes.iter().map(|byte| utf8.decode(&[*byte])).collect();
        assert_eq!(text, "é√");
        assert_eq!(utf8.decode(&[0xff, b'a']), "\u{fffd}a");
    }
}
