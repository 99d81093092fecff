//! The tokenizer of llama2.c: pieces with scores, merged best first.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::path::Path;

use super::Tokens;
use crate::{Error, ErrorKind, Result};

/// A vocabulary of pieces with scores (SentencePiece's BPE), read from the `tokenizer.bin` of llama2.c.
///
/// Text begins with BOS and a space; characters without a piece of their own become bytes; then the adjacent pair that
/// makes the piece of the highest score is merged until none does.
#[derive(Clone, Debug, PartialEq)]
pub struct PieceTokenizer {
    pieces: Vec<Vec<u8>>,
    scores: Vec<f32>,
    ids: HashMap<Vec<u8>, u32>,
    /// The token that begins a text, if one does.
    bos: Option<u32>,
    /// The piece of byte 0; byte `b` is as many pieces after it.
    first_byte: u32,
    /// Whether a space comes before the text.
    space: bool,
}

/// What llama2.c has built in: the token that begins a text, and the piece of byte 0.
const BOS: u32 = 1;
const FIRST_BYTE: u32 = 3;

impl PieceTokenizer {
    /// Reads a `tokenizer.bin`: the longest piece's length, then for each piece its score, length and bytes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shown = path.display();
        let bytes = std::fs::read(path).map_err(|e| Error::unread(path, e))?;
        Self::parse(&bytes).map_err(|why| {
            Error::new(
                ErrorKind::File,
                format!("{shown} is no tokenizer of llama2.c: {why}"),
                "give the `tokenizer.bin` that belongs to the model, such as `tok512.bin`",
            )
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.first_chunk().copied());
        let longest = i32::from_le_bytes(word(0).ok_or("it is empty")?);
        let (mut pieces, mut scores, mut at) = (Vec::new(), Vec::new(), 4);
        while at < bytes.len() {
            let n = pieces.len();
            let (Some(score), Some(len)) = (word(at), word(at + 4)) else {
                return Err(format!("piece {n} is cut off"));
            };
            let (score, len) = (f32::from_le_bytes(score), i32::from_le_bytes(len));
            if !score.is_finite() || len < 0 || len > longest {
                return Err(format!("piece {n} has the score {score} and {len} bytes of at most {longest}"));
            }
            let piece = bytes.get(at + 8..at + 8 + len as usize).ok_or(format!("piece {n} is cut off"))?;
            pieces.push(piece.to_vec());
            scores.push(score);
            at += 8 + len as usize;
        }
        PieceTokenizer::from_pieces(pieces, scores, Some(BOS), FIRST_BYTE, true)
    }

    /// These pieces, each with its score.
    pub(super) fn from_pieces(
        pieces: Vec<Vec<u8>>,
        scores: Vec<f32>,
        bos: Option<u32>,
        first_byte: u32,
        space: bool,
    ) -> Result<Self, String> {
        let least = first_byte as usize + 256;
        if pieces.len() < least {
            return Err(format!(
                "{} pieces are fewer than the {least} that every such tokenizer has",
                pieces.len()
            ));
        }
        if scores.len() != pieces.len() || bos.is_some_and(|bos| bos as usize >= pieces.len()) {
            return Err(format!(
                "{} pieces have {} scores and begin with {bos:?}",
                pieces.len(),
                scores.len()
            ));
        }
        // Of equal pieces the first counts.
        let mut ids = HashMap::new();
        for (id, piece) in pieces.iter().enumerate() {
            ids.entry(piece.clone()).or_insert(id as u32);
        }
        Ok(PieceTokenizer { pieces, scores, ids, bos, first_byte, space })
    }

    /// The token of this piece.
    pub(super) fn token(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece.as_bytes()).copied()
    }

    /// Returns the number of tokens.
    #[allow(clippy::len_without_is_empty)] // there are always the bytes
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Returns the tokens of `text`, BOS first. The time grows with the length of the text, and its logarithm.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens: Vec<u32> = self.bos.into_iter().collect();
        let spaced = if text.is_empty() || !self.space { text.to_string() } else { format!(" {text}") };
        for c in spaced.chars() {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            match self.ids.get(bytes) {
                Some(&id) => tokens.push(id),
                None => tokens.extend(bytes.iter().map(|&b| self.first_byte + u32::from(b))),
            }
        }
        // A chain: which token comes next and which before, so that a merge moves nothing.
        let n = tokens.len();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut before: Vec<usize> = (0..n).map(|at| at.wrapping_sub(1)).collect();
        let mut gone = vec![false; n];
        let mut queue: BinaryHeap<Merge> = BinaryHeap::new();
        let merge = |tokens: &[u32], left: usize, right: usize| {
            let (score, piece) = self.merge(tokens[left], tokens[right])?;
            Some(Merge { score, left, right, of: (tokens[left], tokens[right]), piece })
        };
        queue.extend((1..n).filter_map(|right| merge(&tokens, right - 1, right)));
        while let Some(Merge { left, right, of, piece, .. }) = queue.pop() {
            // What was merged meanwhile is another pair.
            if gone[left] || gone[right] || next[left] != right || (tokens[left], tokens[right]) != of {
                continue;
            }
            tokens[left] = piece;
            gone[right] = true;
            next[left] = next[right];
            if next[left] < n {
                before[next[left]] = left;
                queue.extend(merge(&tokens, left, next[left]));
            }
            if before[left] < n {
                queue.extend(merge(&tokens, before[left], left));
            }
        }
        tokens.into_iter().zip(gone).filter(|(_, gone)| !gone).map(|(token, _)| token).collect()
    }

    /// The score and the number of the piece that two tokens make, if there is one.
    fn merge(&self, left: u32, right: u32) -> Option<(f32, u32)> {
        let pair = [&self.pieces[left as usize][..], &self.pieces[right as usize]].concat();
        self.ids.get(&pair).map(|&id| (self.scores[id as usize], id))
    }

    /// Returns the text of `tokens`. BOS and the space after it are not part of it; bytes that are no text become `�`.
    pub fn decode(&self, tokens: impl Tokens) -> String {
        let tokens = tokens.tokens();
        let mut bytes = Vec::new();
        for (i, &token) in tokens.iter().enumerate() {
            if Some(token) == self.bos {
                continue;
            }
            let after_bos = self.space && i > 0 && Some(tokens[i - 1]) == self.bos;
            let text = self.bytes_of(token);
            bytes.extend_from_slice(if after_bos { text.strip_prefix(b" ").unwrap_or(&text) } else { &text });
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Says how a token is written in a figure.
    pub fn token_text(&self, token: u32) -> String {
        String::from_utf8_lossy(&self.bytes_of(token)).into_owned()
    }

    /// What a token writes: its piece, or the byte that `<0x0A>` stands for.
    fn bytes_of(&self, token: u32) -> Vec<u8> {
        match self.pieces.get(token as usize) {
            None => "�".into(),
            Some(_) if (self.first_byte..self.first_byte + 256).contains(&token) => {
                vec![(token - self.first_byte) as u8]
            }
            Some(piece) => piece.clone(),
        }
    }
}

/// A pair that could be merged.
struct Merge {
    score: f32,
    left: usize,
    right: usize,
    /// The tokens at both places when the pair was found.
    of: (u32, u32),
    piece: u32,
}

impl Ord for Merge {
    /// The highest score first, of equal ones the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Merge {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The 259 pieces that are always there, and these.
    fn file(more: &[(&str, f32)]) -> Vec<u8> {
        let mut bytes = 9_i32.to_le_bytes().to_vec();
        let mut push = |piece: &str, score: f32| {
            bytes.extend(score.to_le_bytes());
            bytes.extend((piece.len() as i32).to_le_bytes());
            bytes.extend(piece.as_bytes());
        };
        ["<unk>", "<s>", "</s>"].iter().for_each(|p| push(p, 0.0));
        (0..256).for_each(|b| push(&format!("<0x{b:02X}>"), 0.0));
        more.iter().for_each(|(p, score)| push(p, *score));
        bytes
    }

    #[test]
    fn the_pair_with_the_highest_score_is_merged_first() {
        let pieces = [(" ", -1.0), ("a", -2.0), ("b", -3.0), ("ab", -5.0), ("ba", -4.0), (" ab", -6.0)];
        let t = PieceTokenizer::parse(&file(&pieces)).unwrap();
        // " aba": "ba" (-4) before "ab" (-5), and then nothing is left to merge.
        assert_eq!(t.encode("aba"), [1, 259, 260, 263]);
        // " ab": no "ba"; "ab", then " ab".
        assert_eq!(t.encode("ab"), [1, 264]);
        // A character without a piece is its bytes: é is C3 A9.
        assert_eq!(t.encode("é"), [1, 259, 3 + 0xC3, 3 + 0xA9]);
        for text in ["aba", "é ab\n", "", " a"] {
            assert_eq!(t.decode(t.encode(text)), text);
        }
    }

    #[test]
    fn cut_off_files_are_refused() {
        let whole = file(&[]);
        for len in [0, 3, 4, 7, 11, 13, whole.len() - 1] {
            assert!(PieceTokenizer::parse(&whole[..len]).is_err(), "{len} bytes");
        }
    }

    /// The definition: over and over the leftmost of the best pairs.
    fn slowly(t: &PieceTokenizer, text: &str) -> Vec<u32> {
        let mut tokens = vec![BOS];
        tokens.extend(format!(" {text}").chars().map(|c| t.ids[c.to_string().as_bytes()]));
        loop {
            let merges = (1..tokens.len()).filter_map(|i| Some((i, t.merge(tokens[i - 1], tokens[i])?)));
            let best = merges.reduce(|best, other| if other.1.0 > best.1.0 { other } else { best });
            let Some((at, (_, piece))) = best else { return tokens };
            tokens.splice(at - 1..=at, [piece]);
        }
    }

    proptest! {
        #[test]
        fn merges_from_a_queue_are_those_of_the_definition(
            pieces in proptest::collection::btree_map("[ab ]{2,4}", -9_i8..0, 0..12),
            text in "[ab ]{1,30}",
        ) {
            let pieces: Vec<(&str, f32)> = pieces.iter().map(|(p, &s)| (p.as_str(), f32::from(s))).collect();
            let all = [&[(" ", -9.0), ("a", -9.0), ("b", -9.0)], &pieces[..]].concat();
            let t = PieceTokenizer::parse(&file(&all)).unwrap();
            prop_assert_eq!(t.encode(&text), slowly(&t, &text));
        }

        #[test]
        fn no_bytes_make_it_panic(
            edits in proptest::collection::vec((0_usize..3000, any::<u8>()), 0..8),
            len in 0_usize..4000,
            text in ".{0,20}",
        ) {
            let mut bytes = file(&[("ab", -1.0)]);
            for (at, byte) in edits {
                let n = bytes.len();
                bytes[at % n] = byte;
            }
            bytes.truncate(len);
            if let Ok(t) = PieceTokenizer::parse(&bytes) {
                t.decode(t.encode(&text));
            }
        }
    }
}
