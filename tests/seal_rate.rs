//! How fast one core seals full records with nothing around it: what TLS cannot be faster than. A measurement, not a test.

use std::time::Instant;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

#[test]
#[ignore = "a measurement that scripts/bench runs"]
fn bare_seal_rate() {
    const RECORD: usize = 16 * 1024;
    const RECORDS: u64 = (1 << 30) / RECORD as u64;
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).unwrap());
    let mut record = vec![7; RECORD];
    let start = Instant::now();
    for number in 0..RECORDS {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = key.seal_in_place_separate_tag(nonce, Aad::from([0; 5]), &mut record);
        assert!(sealed.is_ok());
    }
    println!("seconds per GiB: {:.3}", start.elapsed().as_secs_f64());
}
