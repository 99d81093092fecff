//! A language model as people use one: weights, tokenizer and conventions behind one door, and text wherever tokens go.
//!
//! [`LanguageModel::open`] reads whatever there is (a Hugging Face folder, a GGUF file, a llama2.c file, our own), and
//! [`LanguageModel::from_pretrained`] takes a name of the Hugging Face hub. It is a [`Transformer`] too, so that
//! everything which takes one takes it as well; what takes tokens is here under the same name and takes text.

mod conventions;
mod generate;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use ndarray::{Array2, Array3};

pub use conventions::Conventions;
pub use generate::Continuation;

use crate::circuits::{LogitAttribution, LogitDifference, PatchMap, patch_heads, patch_positions};
use crate::data::{PieceTokenizer, TokenText, Tokenize, Tokenizer, Tokens, is_gguf};
use crate::lens::{Lens, Trajectory};
use crate::model::{ActivationCache, Hook, Intervention, Provenance, Transformer, download};
use crate::{Error, ErrorKind, Result};

/// Weights, tokenizer and conventions of a language model.
///
/// It reads as its [`Transformer`]: `model.config`, `compare(&model, ..)`, `model.forward(&tokens)`.
///
/// ```no_run
/// use onelens::language::LanguageModel;
/// let model = LanguageModel::from_pretrained("HuggingFaceTB/SmolLM2-135M")?;
/// let tokens = model.to_tokens("The capital of France is")?;
/// let (logits, cache) = model.run_with_cache("The capital of France is")?;
/// println!("{}", model.generate("The capital of France is", 20)?);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone)]
pub struct LanguageModel {
    /// By which name or path it was opened.
    pub name: String,
    /// Shape and weights.
    pub model: Transformer,
    /// From text to tokens and back.
    pub tokenizer: Tokenizer,
    /// Which tokens begin and end a text, and how a chat is written. Nothing of it is applied unasked, besides what the
    /// tokenizer itself puts around a text.
    pub conventions: Conventions,
}

impl Deref for LanguageModel {
    type Target = Transformer;

    fn deref(&self) -> &Transformer {
        &self.model
    }
}

impl DerefMut for LanguageModel {
    fn deref_mut(&mut self) -> &mut Transformer {
        &mut self.model
    }
}

impl LanguageModel {
    /// Opens what is at `path`: a folder with `config.json`, weights and `tokenizer.json` as on Hugging Face, a GGUF
    /// file, a model of llama2.c (`.bin`, with its tokenizer as `tokenizer.bin` or `tok512.bin` beside it), or a model
    /// that [`Transformer::save`] wrote after training on a text; or a folder with one of these files and no other.
    ///
    /// Fails if one of the three is missing or does not fit the others, saying which.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = weights_at(path.as_ref())?;
        let model = read_model(&path)?;
        let tokenizer = find_tokenizer(&path, &model)?;
        LanguageModel::build(&path, model, tokenizer)
    }

    /// Does the same with a tokenizer from elsewhere: a `tokenizer.json` or its folder, a GGUF file, or the
    /// `tokenizer.bin` of llama2.c.
    pub fn open_with(path: impl AsRef<Path>, tokenizer: impl AsRef<Path>) -> Result<Self> {
        LanguageModel::open_as(path, Tokenizer::open(tokenizer)?)
    }

    /// Does the same with a tokenizer that is there already.
    ///
    /// Fails, besides as [`new`](LanguageModel::new) does, if the file says that its tokens are the characters of
    /// another text.
    pub fn open_as(path: impl AsRef<Path>, tokenizer: Tokenizer) -> Result<Self> {
        let path = weights_at(path.as_ref())?;
        LanguageModel::build(&path, read_model(&path)?, tokenizer)
    }

    /// Opens a model of the Hugging Face hub by its name, such as `HuggingFaceTB/SmolLM2-135M`: from the hub's local
    /// cache if it is there, else fetched, with a progress bar, because it was named. The cache is where Hugging Face's
    /// own programs keep it (`HF_HUB_CACHE`, or `hub` in `HF_HOME`); with `HF_HUB_OFFLINE=1` nothing is fetched. A path
    /// is opened, as [`open`](LanguageModel::open) does.
    pub fn from_pretrained(name: &str) -> Result<Self> {
        if Path::new(name).exists() {
            return LanguageModel::open(name);
        }
        let mut opened = LanguageModel::open(download(name)?)?;
        opened.name = name.into();
        Ok(opened)
    }

    /// Puts a model together with the tokenizer it was trained with.
    ///
    /// Fails if the tokenizer has more tokens than the model.
    pub fn new(name: &str, model: Transformer, tokenizer: Tokenizer) -> Result<Self> {
        let fits = match tokenizer.vocab() {
            // A vocabulary of characters has no spare tokens.
            Some(characters) => characters.len() == model.config.d_vocab,
            None => tokenizer.len() <= model.config.d_vocab,
        };
        if !fits {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the tokenizer has {} tokens, the model {}", tokenizer.len(), model.config.d_vocab),
                "use the tokenizer that the model was trained with",
            ));
        }
        Ok(LanguageModel { name: name.into(), model, tokenizer, conventions: Conventions::default() })
    }

    fn build(path: &Path, model: Transformer, tokenizer: Tokenizer) -> Result<Self> {
        let own = !path.is_dir()
            && Provenance::of_file(path)
                .is_ok_and(|p| p.vocab.is_some_and(|v| Some(&v) != tokenizer.vocab()));
        if own {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{tokenizer:?} is not the vocabulary that {} was trained with", path.display()),
                "leave the tokenizer out: the file keeps its own",
            ));
        }
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let conventions = Conventions::of(path, &tokenizer)?;
        Ok(LanguageModel { conventions, ..LanguageModel::new(&name, model, tokenizer)? })
    }

    /// Returns the tokens of `text`, with those that the tokenizer puts around it.
    pub fn to_tokens(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.tokenizer.encode(text)?;
        match tokens.iter().find(|&&t| t as usize >= self.model.config.d_vocab) {
            None => Ok(tokens),
            Some(token) => Err(Error::new(
                ErrorKind::Data,
                format!(
                    "the tokenizer says {token} where the model has {} tokens",
                    self.model.config.d_vocab
                ),
                "use the tokenizer that the model was trained with",
            )),
        }
    }

    /// Returns the text of `tokens`, special ones by their names.
    pub fn to_string(&self, tokens: impl Tokens) -> Result<String> {
        self.tokenizer.decode_all(tokens)
    }

    /// Shows how each token of `text` is written.
    pub fn to_str_tokens(&self, text: &str) -> Result<Vec<String>> {
        Ok(self.to_tokens(text)?.into_iter().map(|token| self.tokenizer.token_text(token)).collect())
    }

    /// Returns the one token of `text`, such as the answer ` Paris` of a [`LogitDifference`].
    ///
    /// Fails if it is more than one, showing them.
    pub fn to_single_token(&self, text: &str) -> Result<u32> {
        let mut tokens = self.to_tokens(text)?;
        tokens.retain(|&token| Some(token) != self.conventions.bos);
        match tokens[..] {
            [token] => Ok(token),
            _ => Err(Error::new(
                ErrorKind::Data,
                format!("{text:?} is {} tokens: {:?}", tokens.len(), self.to_str_tokens(text)?),
                "give a text that is one token; a word inside a sentence usually begins with a space",
            )),
        }
    }

    /// Turns `text` into a batch of one sequence, `[1, pos]`.
    pub fn to_batch(&self, text: &str) -> Result<Array2<u32>> {
        let tokens = self.to_tokens(text)?;
        Ok(Array2::from_shape_vec((1, tokens.len()), tokens).expect("one row"))
    }

    /// Turns texts of different lengths into one batch, `[text, pos]`, and the mask that a [`Pass`](crate::model::Pass)
    /// takes: shorter texts begin later, so that all end at the last position.
    ///
    /// ```no_run
    /// # let model = onelens::language::LanguageModel::from_pretrained("HuggingFaceTB/SmolLM2-135M")?;
    /// let (tokens, mask) = model.to_padded_batch(&["The capital of France is", "Two and two are"])?;
    /// let next = model.pass(&tokens).mask(&mask).last_logits()?;
    /// # Ok::<(), onelens::Error>(())
    /// ```
    ///
    /// Fails if there is no text, or one without tokens.
    pub fn to_padded_batch(&self, texts: &[&str]) -> Result<(Array2<u32>, Array2<bool>)> {
        let all = texts.iter().map(|text| self.to_tokens(text)).collect::<Result<Vec<_>>>()?;
        if let Some(at) = all.iter().position(Vec::is_empty) {
            return Err(Error::new(
                ErrorKind::Data,
                format!("text {at}, {:?}, has no tokens", texts[at]),
                "leave it out",
            ));
        }
        let longest = all.iter().map(Vec::len).max().unwrap_or(0);
        let first = |i: usize| longest - all[i].len();
        let mask = Array2::from_shape_fn((all.len(), longest), |(i, pos)| pos >= first(i));
        let token = |(i, pos): (usize, usize)| if pos < first(i) { 0 } else { all[i][pos - first(i)] };
        let tokens = Array2::from_shape_fn((all.len(), longest), token);
        self.model.check_tokens(&tokens)?;
        Ok((tokens, mask))
    }

    /// Computes the mean cross-entropy of the next token over `text`, in nats.
    pub fn loss(&self, text: &str) -> Result<f64> {
        self.model.loss(&self.to_batch(text)?)
    }

    /// Computes the logits of `text`, `[1, pos, d_vocab]`, with interventions.
    pub fn run_with(&self, text: &str, interventions: &[Intervention]) -> Result<Array3<f32>> {
        self.model.run_with(&self.to_batch(text)?, interventions)
    }

    /// Computes the logits of `text`, `[1, pos, d_vocab]`, and every activation on the way.
    pub fn run_with_cache(&self, text: &str) -> Result<(Array3<f32>, ActivationCache)> {
        self.model.run_with_cache(&self.to_batch(text)?)
    }

    /// Shows what `lens` reads after each layer at each position of `text`. The last token serves as the target of the
    /// one before.
    pub fn trajectory(&self, lens: &dyn Lens, text: &str) -> Result<Trajectory> {
        Trajectory::new(&self.model, lens, &self.to_tokens(text)?, &self.tokenizer)
    }

    /// Asks how much more one answer is expected after `text` than another: the question of an attribution and of
    /// patching.
    ///
    /// Fails if an answer is more than one token.
    pub fn question(&self, correct: &str, wrong: &str) -> Result<LogitDifference> {
        let (correct, wrong) = (self.to_single_token(correct)?, self.to_single_token(wrong)?);
        Ok(LogitDifference { correct: vec![correct], wrong: vec![wrong], pos: None })
    }

    /// Takes the question's answer after `text` apart by what each head and MLP writes.
    pub fn attribution(&self, text: &str, question: &LogitDifference) -> Result<LogitAttribution> {
        LogitAttribution::new(&self.model, &self.to_batch(text)?, question)
    }

    /// Finds where the answer is by running `corrupted` with one activation at a time from `clean`, position by
    /// position. The two texts have as many tokens.
    pub fn patch_positions(
        &self,
        clean: &str,
        corrupted: &str,
        hook: fn(usize) -> Hook,
        question: &LogitDifference,
    ) -> Result<PatchMap> {
        let (clean, corrupted) = self.same_length(clean, corrupted)?;
        let map = patch_positions(&self.model, &clean, &corrupted, hook, question)?;
        let tokens: Vec<u32> = corrupted.iter().copied().collect();
        Ok(map.with_tokens(&tokens, &self.tokenizer))
    }

    /// Does the same for one head at a time, at all positions.
    pub fn patch_heads(
        &self,
        clean: &str,
        corrupted: &str,
        hook: fn(usize) -> Hook,
        question: &LogitDifference,
    ) -> Result<PatchMap> {
        let (clean, corrupted) = self.same_length(clean, corrupted)?;
        patch_heads(&self.model, &clean, &corrupted, hook, question)
    }

    fn same_length(&self, clean: &str, corrupted: &str) -> Result<(Array2<u32>, Array2<u32>)> {
        let (a, b) = (self.to_batch(clean)?, self.to_batch(corrupted)?);
        if a.dim() != b.dim() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "the clean text has {} tokens, {:?}, the corrupted one {}, {:?}",
                    a.ncols(),
                    self.to_str_tokens(clean)?,
                    b.ncols(),
                    self.to_str_tokens(corrupted)?
                ),
                "give texts of as many tokens, so that every position has its counterpart",
            ));
        }
        Ok((a, b))
    }
}

impl Tokenize for LanguageModel {
    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.tokens(text)
    }

    fn text(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.text(tokens)
    }

    fn d_vocab(&self) -> usize {
        self.tokenizer.d_vocab()
    }
}

impl TokenText for LanguageModel {
    fn token_text(&self, token: u32) -> String {
        self.tokenizer.token_text(token)
    }
}

impl std::fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LanguageModel {}: {:?}; {:?}", self.name, self.model, self.tokenizer)
    }
}

/// The one file of weights in a folder that is none of Hugging Face's; else `path` itself.
fn weights_at(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() || path.join("config.json").exists() {
        return Ok(path.into());
    }
    let cannot =
        |e| Error::of_file(format!("cannot look into {}", path.display()), e, "check its permissions");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(cannot)? {
        let file = entry.map_err(cannot)?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let is_weights = match file.extension().and_then(|e| e.to_str()) {
            Some("gguf") => true,
            Some("bin") => !name.starts_with("tok") && name != "pytorch_model.bin",
            Some("safetensors") => Provenance::of_file(&file).is_ok(),
            Some(_) | None => false,
        };
        if is_weights && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    match &found[..] {
        [] => Ok(path.into()),
        [one] => Ok(one.clone()),
        several => {
            let names = several.iter().filter_map(|file| file.file_name()).map(|name| name.to_string_lossy());
            Err(Error::new(
                ErrorKind::File,
                format!(
                    "{} holds {} models: {}",
                    path.display(),
                    several.len(),
                    names.collect::<Vec<_>>().join(", ")
                ),
                "name one of the files",
            ))
        }
    }
}

/// Reads the weights at `path`, by what is there.
pub fn read_model(path: &Path) -> Result<Transformer> {
    let path = &weights_at(path)?;
    if path.is_dir() {
        return Transformer::from_hugging_face(path);
    }
    if !path.exists() {
        return Err(nothing_there(path));
    }
    if is_gguf(path) {
        return Transformer::from_gguf(path);
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("bin") => Transformer::from_llama2c(path),
        Some(_) | None => Transformer::load(path),
    }
}

/// The tokenizer that belongs to the model at `path`.
fn find_tokenizer(path: &Path, model: &Transformer) -> Result<Tokenizer> {
    let open_with =
        "name one: `LanguageModel::open_with(model, tokenizer)`, or `--tokenizer` on the command line";
    if path.is_dir() || is_gguf(path) {
        return Tokenizer::open(path);
    }
    if path.extension().is_some_and(|e| e == "bin") {
        let beside = ["tokenizer.bin".to_string(), format!("tok{}.bin", model.config.d_vocab)];
        let found: Option<PathBuf> =
            beside.iter().map(|name| path.with_file_name(name)).find(|p| p.is_file());
        return match found {
            Some(found) => PieceTokenizer::open(found).map(Tokenizer::pieces),
            None => Err(Error::new(
                ErrorKind::File,
                format!("there is no tokenizer beside {} ({})", path.display(), beside.join(" or ")),
                open_with,
            )),
        };
    }
    match Provenance::of_file(path)?.vocab {
        Some(vocab) => Ok(Tokenizer::characters(vocab)),
        None => Err(Error::new(
            ErrorKind::File,
            format!("{} does not say which characters its tokens are", path.display()),
            open_with,
        )),
    }
}

fn nothing_there(path: &Path) -> Error {
    let shown = path.display().to_string();
    let is_name =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let parts: Vec<&str> = shown.split('/').collect();
    let help = match parts.len() == 2 && parts.iter().all(|part| is_name(part)) {
        true => format!(
            "check the path; if it is the name of a model of the Hugging Face hub, fetch it with \
             `onelens model download {shown}`, or in a cell with `LanguageModel::from_pretrained(\"{shown}\")?`"
        ),
        false => "check the path: a folder of Hugging Face, a GGUF file, one of llama2.c, or one that onelens wrote".into(),
    };
    Error::new(ErrorKind::File, format!("there is nothing at {shown}"), help)
}
