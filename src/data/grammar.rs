//! A source with nesting: sentences of a probabilistic grammar, one after another.

use std::collections::BTreeMap;

use ndarray::Array2;

use super::{Source, Tokens};
use crate::num::{Rng, sample_index};
use crate::{Error, ErrorKind, Result};

/// One way to write a symbol: a token, then these symbols.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The symbol that is written.
    pub symbol: usize,
    /// The token that comes first.
    pub token: u32,
    /// The symbols that follow, each to be written in turn.
    pub then: Vec<usize>,
    /// How probable this way is among those of the symbol; they need not sum to 1.
    pub weight: f64,
}

/// Sentences of a probabilistic context-free grammar in Greibach normal form: every rule begins with a token. A
/// sequence is sentence after sentence from symbol 0, the first from its beginning.
///
/// What is still to be written is a stack of symbols. Given the tokens so far the stack may not be certain, but its
/// posterior is known: each token turns every possible stack into those that the rules allow, with their weights (the
/// forward algorithm, over stacks). The true conditional of the next token is the mixture of what the top symbols begin
/// with. A grammar in which many stacks stay possible at once takes as much longer.
///
/// ```
/// use onelens::data::{Grammar, Source};
/// // A sentence is 2, or, a quarter of the time, a sentence between 0 and 1.
/// let source = Grammar::brackets(1, 0.25)?;
/// let p = source.true_conditional(&[0, 2]).unwrap();
/// assert_eq!((p[(0, 0)], p[(0, 2)]), (0.25, 0.75));
/// assert_eq!(p[(1, 1)], 1.0);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Grammar {
    d_vocab: usize,
    /// For each symbol its rules, weights summing to 1.
    rules: Vec<Vec<Rule>>,
}

/// What is still to be written, the next symbol last.
type Stack = Vec<usize>;

impl Grammar {
    /// Makes a grammar from its rules; symbol 0 is a sentence. Tokens are counted up to the largest.
    pub fn new(rules: &[Rule]) -> Result<Self> {
        let bad = |what: String| {
            Err(Error::new(
                ErrorKind::Config,
                what,
                "each symbol that is used needs a rule with a positive weight",
            ))
        };
        let symbols = rules.iter().flat_map(|r| r.then.iter().copied().chain([r.symbol]));
        let n_symbols = symbols.max().map_or(0, |s| s.saturating_add(1));
        let d_vocab = rules.iter().map(|r| r.token).max().map_or(0, |t| t as usize + 1);
        // Symbols and tokens are counted without gaps, so that these bound the memory.
        if n_symbols > rules.len() || d_vocab > rules.len() {
            return bad(format!("{} rules have {n_symbols} symbols and {d_vocab} tokens", rules.len()));
        }
        let mut by_symbol = vec![Vec::new(); n_symbols];
        for rule in rules {
            if !(rule.weight >= 0.0 && rule.weight.is_finite()) {
                return bad(format!("a rule of symbol {} has the weight {}", rule.symbol, rule.weight));
            }
            by_symbol[rule.symbol].push(rule.clone());
        }
        for (symbol, rules) in by_symbol.iter_mut().enumerate() {
            let total: f64 = rules.iter().map(|r| r.weight).sum();
            if !(total > 0.0 && total.is_finite()) {
                return bad(format!("the rules of symbol {symbol} have the total weight {total}"));
            }
            rules.iter_mut().for_each(|r| r.weight /= total);
        }
        if d_vocab < 2 {
            return bad(format!("a grammar of {d_vocab} tokens says nothing"));
        }
        Ok(Grammar { d_vocab, rules: by_symbol })
    }

    /// Makes the grammar of nested brackets of `kinds` kinds: a sentence is the last token, or, with probability
    /// `nest`, a sentence in brackets of a random kind. Kind `k` opens with token `2k` and closes with `2k + 1`.
    pub fn brackets(kinds: usize, nest: f64) -> Result<Self> {
        if kinds == 0 || kinds > 1 << 20 || !(0.0..1.0).contains(&nest) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{kinds} kinds of brackets that nest with probability {nest} make no grammar"),
                "use at least one kind and a probability from 0 to below 1, for example `Grammar::brackets(3, 0.7)`",
            ));
        }
        let mut rules = vec![Rule { symbol: 0, token: 2 * kinds as u32, then: vec![], weight: 1.0 - nest }];
        for kind in 0..kinds {
            let (token, close) = (2 * kind as u32, kind + 1);
            rules.push(Rule { symbol: 0, token, then: vec![0, close], weight: nest / kinds as f64 });
            rules.push(Rule { symbol: close, token: token + 1, then: vec![], weight: 1.0 });
        }
        Self::new(&rules)
    }

    /// The rules of the symbol that comes next, and what is under it.
    fn next<'g, 's>(&'g self, stack: &'s [usize]) -> (&'g [Rule], &'s [usize]) {
        match stack.split_last() {
            Some((&top, rest)) => (&self.rules[top], rest),
            // A sentence has ended, the next one begins.
            None => (&self.rules[0], &[]),
        }
    }
}

/// The stack after a rule was used above `rest`.
fn after(rule: &Rule, rest: &[usize]) -> Stack {
    rest.iter().chain(rule.then.iter().rev()).copied().collect()
}

impl Source for Grammar {
    fn d_vocab(&self) -> usize {
        self.d_vocab
    }

    fn sample(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        let mut out = Array2::zeros((n_seqs, len));
        for mut row in out.rows_mut() {
            let mut stack = Stack::new();
            for token in &mut row {
                let (rules, _) = self.next(&stack);
                let rule = &rules[sample_index(rng, rules.iter().map(|r| r.weight))];
                stack.pop();
                stack.extend(rule.then.iter().rev());
                *token = rule.token;
            }
        }
        Ok(out)
    }

    fn sample_held_out(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        self.sample(n_seqs, len, rng)
    }

    fn true_conditional(&self, tokens: &dyn Tokens) -> Option<Array2<f64>> {
        let tokens = &*tokens.tokens();
        let mut p = Array2::zeros((tokens.len(), self.d_vocab));
        let mut stacks = BTreeMap::from([(Stack::new(), 1.0_f64)]);
        for (t, &token) in tokens.iter().enumerate() {
            let mut later = BTreeMap::new();
            for (stack, weight) in &stacks {
                let (rules, rest) = self.next(stack);
                for rule in rules.iter().filter(|r| r.token == token && r.weight > 0.0) {
                    *later.entry(after(rule, rest)).or_insert(0.0) += weight * rule.weight;
                }
            }
            let total: f64 = later.values().sum();
            if total <= 0.0 {
                return None;
            }
            later.values_mut().for_each(|w| *w /= total);
            stacks = later;
            for (stack, weight) in &stacks {
                for rule in self.next(stack).0 {
                    p[(t, rule.token as usize)] += weight * rule.weight;
                }
            }
        }
        Some(p)
    }

    fn token_text(&self, token: u32) -> String {
        super::letter(token)
    }

    fn describe(&self) -> String {
        let n_rules: usize = self.rules.iter().map(Vec::len).sum();
        format!("a grammar of {} symbols, {n_rules} rules and {} tokens", self.rules.len(), self.d_vocab)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::rng;

    fn rule(symbol: usize, token: u32, then: &[usize], weight: f64) -> Rule {
        Rule { symbol, token, then: then.to_vec(), weight }
    }

    /// Ambiguous: after an a nobody knows whether another sentence symbol is to come, and b closes either kind.
    fn ambiguous() -> Grammar {
        let rules = [
            rule(0, 0, &[], 2.0),
            rule(0, 0, &[0, 1], 1.0),
            rule(0, 1, &[0], 1.0),
            rule(1, 1, &[], 3.0),
            rule(1, 2, &[0], 1.0),
        ];
        Grammar::new(&rules).unwrap()
    }

    /// Every derivation of `len` tokens, by writing out each rule in turn: tokens with their probability.
    fn derivations(g: &Grammar, len: usize) -> Vec<(Vec<u32>, f64)> {
        fn write(g: &Grammar, todo: Vec<usize>, left: usize) -> Vec<(Vec<u32>, f64)> {
            if left == 0 {
                return vec![(vec![], 1.0)];
            }
            let todo = if todo.is_empty() { vec![0] } else { todo };
            let mut out = Vec::new();
            for rule in &g.rules[todo[0]] {
                let next = [&rule.then, &todo[1..]].concat();
                for (tokens, p) in write(g, next, left - 1) {
                    out.push(([vec![rule.token], tokens].concat(), p * rule.weight));
                }
            }
            out
        }
        write(g, vec![], len)
    }

    #[test]
    fn the_true_conditional_is_what_enumeration_of_all_derivations_gives() {
        for (g, len) in [(ambiguous(), 7), (Grammar::brackets(2, 0.6).unwrap(), 7)] {
            let all = derivations(&g, len);
            assert!((all.iter().map(|d| d.1).sum::<f64>() - 1.0).abs() < 1e-12);
            let probability =
                |prefix: &[u32]| -> f64 { all.iter().filter(|d| d.0.starts_with(prefix)).map(|d| d.1).sum() };
            for (tokens, _) in all.iter().step_by(17) {
                let p = g.true_conditional(&&tokens[..len - 1]).unwrap();
                for t in 0..len - 1 {
                    for next in 0..g.d_vocab as u32 {
                        let with = [&tokens[..=t], &[next]].concat();
                        let want = probability(&with) / probability(&tokens[..=t]);
                        assert!((p[(t, next as usize)] - want).abs() < 1e-12, "{tokens:?}, {t}, {next}");
                    }
                }
            }
        }
    }

    #[test]
    fn sampled_brackets_close_in_the_order_in_which_they_opened() {
        let source = Grammar::brackets(3, 0.7).unwrap();
        let tokens = source.sample(50, 60, &mut rng(4, 0)).unwrap();
        let mut deepest = 0;
        for row in tokens.rows() {
            let mut open = Vec::new();
            for &token in row {
                match token {
                    6 => {}
                    t if t % 2 == 0 => open.push(t),
                    t => assert_eq!(open.pop(), Some(t - 1)),
                }
                deepest = deepest.max(open.len());
            }
            let p = source.true_conditional(&row).unwrap();
            assert!(p.rows().into_iter().all(|p| (p.sum() - 1.0).abs() < 1e-12));
        }
        assert!(deepest > 5, "{deepest}");
        assert!(source.true_conditional(&[0, 3]).is_none(), "another kind closes");
        assert!(source.true_conditional(&[99]).is_none());
    }

    #[test]
    fn what_is_no_grammar_is_refused() {
        let cases = [
            vec![],
            vec![rule(0, 0, &[], 1.0), rule(0, 1, &[1], 1.0)],
            vec![rule(0, 0, &[], 0.0), rule(0, 1, &[], 0.0)],
            vec![rule(0, 0, &[], f64::NAN), rule(0, 1, &[], 1.0)],
            vec![rule(0, 0, &[], -1.0), rule(0, 1, &[], 3.0)],
            vec![rule(usize::MAX, u32::MAX, &[], 1.0)],
            vec![rule(0, 0, &[], 1.0)],
        ];
        for rules in cases {
            assert!(Grammar::new(&rules).unwrap_err().to_string().contains("help:"), "{rules:?}");
        }
    }
}
