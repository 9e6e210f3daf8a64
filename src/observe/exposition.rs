//! stub
/// stub
pub fn encode(_s: &super::metrics::Samples, _a: Option<&str>) -> (String, String) {
    todo!()
}
