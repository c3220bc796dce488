//! Compression of responses with gzip, for clients that prefer it.

use std::io::Write;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_ENCODING;
use flate2::Compression;
use flate2::write::GzEncoder;

/// Compresses a text. Higher levels take several times as long for a few percent.
pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = encoder.write_all(text);
    written.and_then(|()| encoder.finish()).expect("writing to memory succeeds")
}

/// Whether a request accepts gzip, and does not prefer an uncompressed response (RFC 9110, 12.5.3).
pub(crate) fn prefers_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity, mut others) = (None, None, None);
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let lists = values.filter_map(|value| value.to_str().ok());
    for coding in lists.flat_map(|list| list.split(',')) {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => &mut gzip,
            "identity" => &mut identity,
            "*" => &mut others,
            _ => continue,
        };
        *weight = Some(thousandths(parameters));
    }
    let gzip = gzip.or(others).unwrap_or(0);
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// The weight `q=0.5` in thousandths; 1000 by default, and 0 if it is invalid.
fn thousandths(parameters: &str) -> u16 {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return 1000;
    }
    let weight = parameters.strip_prefix("q=").or_else(|| parameters.strip_prefix("Q="));
    let Some(weight) = weight else { return 0 };
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let is_number = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    match whole {
        "1" if is_number && fraction.bytes().all(|b| b == b'0') => 1000,
        "0" if is_number => format!("{fraction:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn is_preferred(values: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
        }
        prefers_gzip(&headers)
    }

    #[test]
    fn gzip_is_used_when_the_client_accepts_and_prefers_it() {
        for accepted in [
            &["gzip"][..],
            &["GZIP"],
            &["x-gzip"],
            &["deflate, gzip;q=1.0, *;q=0.5"],
            &["br", "gzip"],
            &["*"],
            &["gzip;q=0.001"],
            &["gzip ; q=0.5 , identity;q=0.5"],
            &["identity;q=0.2,gzip;q=0.3"],
            &["identity;q=0, *"],
        ] {
            assert!(is_preferred(accepted), "{accepted:?}");
        }
        for refused in [
            &[][..],
            &[""],
            &["identity"],
            &["br, deflate"],
            &["gzip;q=0"],
            &["gzip;q=0.000"],
            &["*;q=0"],
            &["gzip;q=0, *"],
            &["identity, gzip;q=0.5"],
            &["gzip;q=2"],
            &["gzip;q=0.1234"],
            &["gzip;q=x"],
            &["gzip;level=1"],
            &["gzipped"],
        ] {
            assert!(!is_preferred(refused), "{refused:?}");
        }
    }
}
