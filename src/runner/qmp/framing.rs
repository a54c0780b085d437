//! From bytes to JSON values, as QMP sends them: one after the other, on any number of lines, with anything between.
//!
//! Strings may stand in single quotes, as QEMU takes them.

use serde_json::Value;

/// Longest value, in bytes.
pub const LONGEST: usize = 1 << 20;

/// What came.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A whole value.
    Value(Value),
    /// Something that is none; what is wrong with it.
    Garbage(String),
    /// More than [`LONGEST`] bytes without an end: nothing that follows can be understood.
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Outside,
    String { quote: u8, escaped: bool },
}

/// Takes bytes and gives values.
pub struct Frames {
    /// The value that has begun, in double quotes.
    text: Vec<u8>,
    depth: usize,
    at: At,
}

impl Frames {
    /// Nothing came yet.
    pub fn new() -> Self {
        Self { text: Vec::new(), depth: 0, at: At::Outside }
    }

    /// Takes the next bytes and gives what they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Frame> {
        let mut all = Vec::new();
        for byte in bytes {
            if let Some(frame) = self.take(*byte) {
                all.push(frame);
            }
            if self.text.len() > LONGEST {
                all.push(Frame::TooLong);
                return all;
            }
        }
        all
    }

    fn take(&mut self, byte: u8) -> Option<Frame> {
        match self.at {
            At::String { quote, escaped } => {
                self.in_string(byte, quote, escaped);
                None
            }
            At::Outside => self.outside(byte),
        }
    }

    fn in_string(&mut self, byte: u8, quote: u8, escaped: bool) {
        match (byte, escaped) {
            // In single quotes a double one is nothing special, and the other way round.
            (b'"', _) if quote == b'\'' => {
                if !escaped {
                    self.text.push(b'\\');
                }
                self.text.push(b'"');
                self.at = At::String { quote, escaped: false };
            }
            (b'\'', true) => {
                self.text.pop();
                self.text.push(b'\'');
                self.at = At::String { quote, escaped: false };
            }
            (_, true) => {
                self.text.push(byte);
                self.at = At::String { quote, escaped: false };
            }
            (b'\\', false) => {
                self.text.push(byte);
                self.at = At::String { quote, escaped: true };
            }
            (byte, false) if byte == quote => {
                self.text.push(b'"');
                self.at = At::Outside;
            }
            (_, false) => self.text.push(byte),
        }
    }

    fn outside(&mut self, byte: u8) -> Option<Frame> {
        match byte {
            b'"' | b'\'' => {
                self.text.push(b'"');
                self.at = At::String { quote: byte, escaped: false };
                return None;
            }
            b'{' | b'[' => {
                // Words outside of any value are told of where it begins.
                let before = if self.depth == 0 { self.end() } else { None };
                self.depth += 1;
                self.text.push(byte);
                return before;
            }
            b'}' | b']' => {
                self.text.push(byte);
                self.depth = self.depth.saturating_sub(1);
                return if self.depth == 0 { self.end() } else { None };
            }
            // A line's end ends what is no object, such as a lone word.
            b'\n' if self.depth == 0 => return self.end(),
            _ => self.text.push(byte),
        }
        None
    }

    fn end(&mut self) -> Option<Frame> {
        let text = std::mem::take(&mut self.text);
        if text.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        Some(match serde_json::from_slice(&text) {
            Ok(value) => Frame::Value(value),
            Err(error) => Frame::Garbage(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn all(bytes: &[u8]) -> Vec<Frame> {
        Frames::new().push(bytes)
    }

    fn values(bytes: &[u8]) -> Vec<Value> {
        let value = |frame| if let Frame::Value(value) = frame { value } else { panic!("{frame:?}") };
        all(bytes).into_iter().map(value).collect()
    }

    #[test]
    fn values_end_where_they_end_whatever_is_between() {
        assert_eq!(values(b"{\"a\": 1}{\"b\"\n:\r\n[{}]}\n\n [1]"), [json!({"a": 1}), json!({"b": [{}]}), json!([1])]);
        assert_eq!(values(b"{\"a\": \"}\\\"{'\"}"), [json!({"a": "}\"{'"})]);
        assert_eq!(values(b"{'a': 'b\"c\\'d\\\\', 'e': '\\n'}"), [json!({"a": "b\"c'd\\", "e": "\n"})]);
    }

    #[test]
    fn every_cut_gives_the_same() {
        let text = b"{'a': \"x\\\"y\"} {\"b\": [1, {\"c\": '\\\\'}]}\n7\n";
        let whole = all(text);
        assert_eq!(whole.len(), 3);
        for at in 0..text.len() {
            let mut frames = Frames::new();
            let parts = [frames.push(&text[..at]), frames.push(&text[at..])].concat();
            assert_eq!(format!("{parts:?}"), format!("{whole:?}"), "{at}");
        }
    }

    #[test]
    fn garbage_is_told_and_what_follows_is_understood() {
        let frames = all(b"garbage\n{\"a\": }\n}}\n{\"execute\": \"x\"}");
        assert!(
            matches!(
                &frames[..],
                [Frame::Garbage(_), Frame::Garbage(_), Frame::Garbage(_), Frame::Garbage(_), Frame::Value(_)]
            ),
            "{frames:?}"
        );
        assert!(matches!(&all(b"word {\"a\": 1}")[..], [Frame::Garbage(_), Frame::Value(_)]));
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert!(matches!(&all(&deep)[..], [Frame::Garbage(_)]));
    }

    #[test]
    fn ten_megabytes_of_one_line_are_refused_early() {
        let mut frames = Frames::new();
        let line = vec![b'x'; 10 << 20];
        let told: Vec<Frame> = line.chunks(4096).flat_map(|part| frames.push(part)).take(1).collect();
        assert_eq!(told, [Frame::TooLong]);
        assert!(frames.text.len() <= LONGEST + 1);
    }
}
