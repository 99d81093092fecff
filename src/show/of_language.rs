//! How a language model and its text look in a notebook.

use super::{Card, text};
use crate::data::Corpus;
use crate::language::{Continuation, LanguageModel};
use crate::session::{display, escape_html};

impl LanguageModel {
    /// Makes the model card: what it is, and how its weights are kept.
    pub fn card(&self) -> Card {
        let mut card = self.model.card();
        card.title = self.name.clone();
        // What the weights were drawn from says nothing about weights that were read.
        card.rows.retain(|(name, _)| name != "seed");
        card.rows.push(("tokenizer".into(), format!("{} tokens", self.tokenizer.len())));
        let token = |token: u32| format!("{:?} ({token})", self.tokenizer.token_text(token));
        if let Some(bos) = self.conventions.bos {
            card.rows.push(("begins a text".into(), token(bos)));
        }
        if !self.conventions.eos.is_empty() {
            let eos: Vec<String> = self.conventions.eos.iter().map(|&eos| token(eos)).collect();
            card.rows.push(("ends a text".into(), eos.join(", ")));
        }
        card
    }

    /// Shows the model card.
    pub fn evcxr_display(&self) {
        self.card().evcxr_display();
    }
}

impl Corpus {
    /// Makes a card: what the text is, and how many characters are for training and held out.
    ///
    /// ```
    /// use onelens::data::Corpus;
    /// let corpus = Corpus::from_text("ones and zeros", "01".repeat(500))?;
    /// assert!(corpus.card().figure()?.text().contains("held out    200 characters\n"));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn card(&self) -> Card {
        Card {
            title: format!("Corpus: {}", self.name()),
            rows: vec![
                ("training".into(), text::count(self.n_train(), "character")),
                ("held out".into(), text::count(self.n_held_out(), "character")),
                ("vocabulary".into(), text::count(self.vocab().len(), "token")),
            ],
            ..Default::default()
        }
    }

    /// Shows the card.
    pub fn evcxr_display(&self) {
        self.card().evcxr_display();
    }
}

impl Continuation {
    /// Shows the text, what the model added in bold.
    pub fn evcxr_display(&self) {
        let html = format!(
            "<div style=\"white-space:pre-wrap\">{}<b>{}</b></div>",
            escape_html(&self.prompt),
            escape_html(&self.text)
        );
        display(&vec![("text/html".into(), html), ("text/plain".into(), self.to_string())]);
    }
}
