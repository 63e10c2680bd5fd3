//! The ASCII type (RFC 959 §3.1.1.1): lines end with CRLF on the network and with LF here. Each LF becomes CRLF whatever
//! stands before it, and each CRLF becomes LF: what goes out and comes back is the same to the byte.

/// From files to the network.
#[derive(Debug, Default)]
pub struct ToNetwork;

impl ToNetwork {
    /// Adds the converted bytes.
    pub fn convert(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut lines = input.split(|&byte| byte == b'\n');
        if let Some(first) = lines.next() {
            out.extend_from_slice(first);
        }
        for line in lines {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(line);
        }
    }
}

/// How many bytes [`ToNetwork`] makes of these.
pub fn network_length(input: &[u8]) -> u64 {
    (input.len() + input.iter().filter(|&&byte| byte == b'\n').count()) as u64
}

/// From the network to files.
#[derive(Debug, Default)]
pub struct FromNetwork {
    /// The last buffer ended with a CR, whose meaning the next byte tells.
    held_cr: bool,
}

impl FromNetwork {
    /// Adds the converted bytes; a CR at the very end is held back.
    pub fn convert(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut rest = input;
        if self.held_cr && !rest.is_empty() {
            self.held_cr = false;
            if rest[0] != b'\n' {
                out.push(b'\r');
            }
        }
        while let Some(at) = rest.iter().position(|&byte| byte == b'\r') {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            match rest.first() {
                Some(b'\n') => {}
                Some(_) => out.push(b'\r'),
                None => self.held_cr = true,
            }
        }
        out.extend_from_slice(rest);
    }

    /// Adds what was held back, at the end of the transfer.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.held_cr) {
            out.push(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        ToNetwork.convert(bytes, &mut out);
        assert_eq!(out.len() as u64, network_length(bytes));
        out
    }

    #[test]
    fn every_lf_becomes_crlf() {
        assert_eq!(there(b"a\nb\r\nc\rd\n\n"), b"a\r\nb\r\r\nc\rd\r\n\r\n");
        assert_eq!(there(b""), b"");
    }

    #[test]
    fn every_crlf_becomes_lf_wherever_the_buffers_are_cut() {
        let text = b"a\r\nb\r\r\nc\rd\n\r";
        for size in 1..=text.len() {
            let (mut convert, mut out) = (FromNetwork::default(), Vec::new());
            text.chunks(size)
                .for_each(|chunk| convert.convert(chunk, &mut out));
            convert.finish(&mut out);
            assert_eq!(out, b"a\nb\r\nc\rd\n\r", "{size}");
        }
    }
}
