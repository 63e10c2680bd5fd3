//! Doors to parsers that nobody needs from outside but the fuzz targets (tests/fuzz); no part of the interface.
use crate::storage::integrity::checksum;
use crate::storage::quota::counts;

/// The record of a checksum, written again as it was understood.
pub fn checksum_record(value: &[u8]) -> Option<String> {
    checksum::Record::parse(value).map(|record| record.encode())
}

/// The record of a quota, written again as it was understood.
pub fn quota_record(text: &[u8]) -> Option<String> {
    counts::Record::parse(text).map(counts::Record::text)
}
