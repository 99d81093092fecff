//! The outputs of cells, gathered from messages into the form that notebooks keep.
//!
//! Streams of one name grow together, `update_display_data` replaces wherever the display is shown (also in an
//! earlier cell), `clear_output` clears, at once or when the next output comes.

use serde_json::{Map, Value, json};

use crate::notebook::lines_of;

/// The outputs of all cells of one run.
pub struct Outputs {
    cells: Vec<Vec<Value>>,
    clear_before_next: Option<usize>,
}

impl Outputs {
    /// For a notebook with this many cells.
    pub fn new(cells: usize) -> Outputs {
        Outputs { cells: vec![Vec::new(); cells], clear_before_next: None }
    }

    /// Takes in one message that cell `at` caused. Messages that are no outputs change nothing.
    pub fn apply(&mut self, at: usize, kind: &str, content: &Value) {
        let output = match kind {
            "stream" => json!({ "name": content["name"], "output_type": "stream", "text": content["text"] }),
            "execute_result" | "display_data" => {
                let mut output = Map::new();
                output.insert("data".into(), content["data"].clone());
                if kind == "execute_result" {
                    output.insert("execution_count".into(), content["execution_count"].clone());
                }
                output.insert("metadata".into(), or_empty(&content["metadata"]));
                output.insert("output_type".into(), kind.into());
                // Kept until the end, to find the display again; not part of the file.
                output.insert("transient".into(), content["transient"].clone());
                output.into()
            }
            "error" => json!({
                "ename": content["ename"], "evalue": content["evalue"],
                "output_type": "error", "traceback": content["traceback"],
            }),
            "update_display_data" => return self.update(content),
            "clear_output" if content["wait"] == true => {
                self.clear_before_next = Some(at);
                return;
            }
            "clear_output" => {
                self.cells[at].clear();
                return;
            }
            _ => return,
        };
        if self.clear_before_next.take() == Some(at) {
            self.cells[at].clear();
        }
        if kind == "stream"
            && let Some(last) = self.cells[at].last_mut()
            && last["output_type"] == "stream"
            && last["name"] == output["name"]
            && let Value::String(text) = &mut last["text"]
        {
            text.push_str(output["text"].as_str().unwrap_or_default());
            return;
        }
        self.cells[at].push(output);
    }

    fn update(&mut self, content: &Value) {
        let id = &content["transient"]["display_id"];
        for output in self.cells.iter_mut().flatten() {
            if !id.is_null() && output["transient"]["display_id"] == *id {
                output["data"] = content["data"].clone();
                output["metadata"] = or_empty(&content["metadata"]);
            }
        }
    }

    /// The outputs of one cell in the form of a notebook file.
    pub fn of(&self, at: usize) -> Vec<Value> {
        self.cells[at].iter().cloned().map(for_file).collect()
    }
}

fn or_empty(value: &Value) -> Value {
    if value.is_object() { value.clone() } else { json!({}) }
}

fn for_file(mut output: Value) -> Value {
    if let Value::Object(output) = &mut output {
        output.shift_remove("transient");
        if let Some(Value::String(text)) = output.get("text") {
            let lines = lines_of(text);
            output.insert("text".into(), lines);
        }
        if let Some(Value::Object(data)) = output.get_mut("data") {
            for (mime, value) in data.iter_mut() {
                let is_text = mime.starts_with("text/")
                    || matches!(mime.as_str(), "image/svg+xml" | "application/javascript");
                if let (true, Value::String(text)) = (is_text, &*value) {
                    *value = lines_of(text);
                }
            }
            // As Jupyter does, so that saving in JupyterLab changes nothing.
            data.sort_keys();
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(text: &str) -> Value {
        json!({ "name": "stdout", "text": text })
    }

    #[test]
    fn streams_grow_together_until_something_else_comes_between() {
        let mut outputs = Outputs::new(1);
        outputs.apply(0, "stream", &stream("a\n"));
        outputs.apply(0, "stream", &stream("b"));
        outputs.apply(0, "error", &json!({ "ename": "E", "evalue": "v", "traceback": [] }));
        outputs.apply(0, "stream", &stream("c"));
        let texts: Vec<Value> = outputs.of(0).iter().map(|o| o["text"].clone()).collect();
        assert_eq!(texts, [json!(["a\n", "b"]), Value::Null, json!(["c"])]);
    }

    #[test]
    fn a_display_is_updated_where_it_stands() {
        let mut outputs = Outputs::new(2);
        let display = |text: &str| json!({ "data": { "text/plain": text }, "metadata": {}, "transient": { "display_id": "p" } });
        outputs.apply(0, "display_data", &display("0 of 2"));
        outputs.apply(1, "update_display_data", &display("2 of 2"));
        assert_eq!(
            outputs.of(0),
            [json!({ "data": { "text/plain": ["2 of 2"] }, "metadata": {}, "output_type": "display_data" })]
        );
        assert!(outputs.of(1).is_empty());
    }

    #[test]
    fn clearing_happens_at_once_or_before_the_next_output() {
        let mut outputs = Outputs::new(1);
        outputs.apply(0, "stream", &stream("a"));
        outputs.apply(0, "clear_output", &json!({ "wait": true }));
        assert_eq!(outputs.of(0).len(), 1);
        outputs.apply(0, "stream", &stream("b"));
        assert_eq!(outputs.of(0)[0]["text"], json!(["b"]));
        outputs.apply(0, "clear_output", &json!({ "wait": false }));
        assert!(outputs.of(0).is_empty());
    }
}
