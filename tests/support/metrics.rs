//! Reads Prometheus text, as far as the tests need it.

/// The sum of all series of a family that have (at least) the labels asked for, e.g. `name` or `name{code="internal"}`.
/// `None` when there is no such series.
pub fn value(text: &str, series: &str) -> Option<f64> {
    let (name, wanted) = split(series);
    let found: Vec<f64> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(key, _)| {
            let (key_name, labels) = split(key);
            key_name == name && wanted.iter().all(|label| labels.contains(label))
        })
        .map(|(key, number)| number.parse().unwrap_or_else(|_| panic!("{key} is {number:?}, which is no number")))
        .collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

/// Name and `label="value"` pairs. Values with a quoted comma are not used by this project.
fn split(series: &str) -> (&str, Vec<&str>) {
    match series.split_once('{') {
        Some((name, labels)) => {
            let labels = labels.trim_end().trim_end_matches('}');
            (name, labels.split(',').map(str::trim).filter(|label| !label.is_empty()).collect())
        }
        None => (series.trim_end(), Vec::new()),
    }
}
