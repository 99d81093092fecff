use super::Place;

pub const RIGHT: i32 = 90;

pub fn of(place: &Place) -> f64 {
    place.y.atan2(place.x)
}
