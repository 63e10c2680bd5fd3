//! AUTH, PBSZ, PROT, CCC (RFC 2228 §3, as RFC 4217 uses them for TLS).
use super::Answer;
use crate::config::TlsMode;
use crate::ftp::protocol::numbers::parse_decimal;
use crate::ftp::protocol::reply::Reply;
use crate::ftp::refusal::Refusal;
use crate::ftp::security::AfterReply;
use crate::ftp::session::{Login, Session};

/// The handshake follows the reply. Who was logged in before is asked again (RFC 2228 §3), for what came in the clear may
/// have come from anybody.
pub fn auth(session: &mut Session, argument: &[u8]) -> Answer {
    if !session.connection.security.is_offered() {
        return Err(Refusal::new(502, "There is no TLS here.")
            .logged("AUTH, but there is no TLS (setting: tls.mode)"));
    }
    let private_data = match argument.to_ascii_uppercase().as_slice() {
        b"TLS" | b"TLS-C" => false,
        // Old clients say SSL and take data connections for encrypted (draft-murray-auth-ftp-ssl).
        b"TLS-P" | b"SSL" => true,
        _ => return Err(Refusal::new(504, "Only AUTH TLS is offered.")),
    };
    if session.connection.control.stream().is_encrypted() {
        return Err(Refusal::new(
            503,
            "The control connection is encrypted already.",
        ));
    }
    if !matches!(session.login, Login::Greeted) {
        session.reinitialize();
    }
    session.connection.security.reset();
    session.connection.security.private_data = private_data;
    session.connection.security.has_begun = true;
    session.connection.after_reply = Some(AfterReply::Encrypt);
    Ok(Reply::new(
        234,
        "AUTH command successful; begin the TLS handshake.",
    ))
}

/// TLS has buffers of its own: whatever is asked for, it is 0 (RFC 4217 §8).
pub fn pbsz(session: &mut Session, argument: &[u8]) -> Answer {
    if !session.connection.control.stream().is_encrypted() {
        return Err(Refusal::new(503, "AUTH must come first."));
    }
    match parse_decimal(argument).map(u32::try_from) {
        Some(Ok(_)) => Ok(Reply::new(200, "PBSZ=0")),
        _ => Err(Refusal::new(501, "The size must be a number of 32 bits.")),
    }
}

/// Clients that say it without PBSZ mean what they say: there is but one buffer size.
pub fn prot(session: &mut Session, argument: &[u8]) -> Answer {
    if !session.connection.security.has_begun {
        return Err(Refusal::new(503, "AUTH must come first."));
    }
    match argument.to_ascii_uppercase().as_slice() {
        b"P" => {
            session.connection.security.private_data = true;
            Ok(Reply::new(
                200,
                "Protection level set to P: data connections are encrypted.",
            ))
        }
        b"C" if session.must_protect_data() => Err(Refusal::new(
            534,
            "Data connections must be encrypted here.",
        )),
        b"C" => {
            session.connection.security.private_data = false;
            Ok(Reply::new(
                200,
                "Protection level set to C: data connections are in the clear.",
            ))
        }
        b"S" | b"E" => Err(Refusal::new(536, "TLS has no such level; use C or P.")),
        _ => Err(Refusal::new(504, "There is no such level.")),
    }
}

/// For routers that look into the control connection to find the data ports; the password has gone by encrypted.
pub fn ccc(session: &mut Session, _: &[u8]) -> Answer {
    if !session.connection.control.stream().is_encrypted() {
        return Err(Refusal::new(
            533,
            "The control connection is in the clear already.",
        ));
    }
    if !session.config.tls.allow_ccc || session.config.tls.mode == TlsMode::Off {
        return Err(Refusal::new(534, "The control connection stays encrypted.")
            .logged("CCC (setting: tls.allow_ccc)"));
    }
    session.connection.after_reply = Some(AfterReply::StopEncryption);
    Ok(Reply::new(
        200,
        "CCC command successful: in the clear from now on.",
    ))
}
