//! For the cases of modules in files.

pub const NOTE: &str = include_str!("note.txt");

pub mod angles;

#[derive(Debug)]
pub struct Place {
    pub x: f64,
    pub y: f64,
}

impl Place {
    pub fn norm(&self) -> f64 {
        self.x.hypot(self.y)
    }
}
