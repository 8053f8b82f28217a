//! A WebSocket client (RFC 6455) with just what the CRI's streaming server needs: it carries a
//! container's streams as binary messages whose first byte names the stream.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::{Node, Result, patience};

/// The kubelet's name of the protocol: one byte of stream, then its data.
const PROTOCOL: &str = "v4.channel.k8s.io";
/// The nonce and its answer of RFC 6455, section 1.3: they only keep caches out, and there are none.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A client has to mask what it sends, with any mask.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Seconds that a read may take.
const PATIENCE: u32 = 20;
/// No message of a test is near this length in bytes.
const LONGEST: u64 = 1 << 20;

const FINAL: u8 = 0x80;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;

/// A stream of a container, numbered as the subprotocol `v4.channel.k8s.io` numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// Standard input.
    Stdin = 0,
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// How the session ended, as a Kubernetes `Status` in JSON.
    Error = 3,
}

/// An open session.
#[derive(Debug)]
pub struct WebSocket {
    connection: BufReader<TcpStream>,
}

impl WebSocket {
    /// Opens the `http://ADDRESS:PORT/PATH` that the CRI told, from inside the node.
    pub fn open(node: &Node, url: &str) -> Result<Self> {
        let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).ok_or("not a URL")?;
        let mut connection = node.connect(host.parse()?)?;
        connection.set_read_timeout(Some(patience(PATIENCE)))?;
        write!(
            connection,
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
        )?;
        let mut socket = Self { connection: BufReader::new(connection) };
        let answer = socket.headers()?;
        let told = |wanted: String| answer.lines().any(|line| line.eq_ignore_ascii_case(&wanted));
        let accepted = told(format!("Sec-WebSocket-Accept: {ACCEPT}"));
        if !answer.starts_with("HTTP/1.1 101 ") || !accepted || !told(format!("Sec-WebSocket-Protocol: {PROTOCOL}")) {
            return Err(format!("{url} is no WebSocket: {answer}").into());
        }
        Ok(socket)
    }

    fn headers(&mut self) -> Result<String> {
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            if self.connection.read_line(&mut answer)? == 0 {
                return Err(format!("the server hung up after {answer:?}").into());
            }
        }
        Ok(answer)
    }

    /// Sends data of a stream.
    pub fn send(&mut self, stream: Stream, data: &str) -> Result<()> {
        self.write_frame(BINARY, &[&[stream as u8], data.as_bytes()].concat())
    }

    /// Reads until the stream has told `wanted`; fails when the session ends or nothing comes.
    pub fn expect(&mut self, stream: Stream, wanted: &str) -> Result<()> {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let frame = self.read_frame().map_err(|error| {
                format!("no {wanted:?} on {stream:?} but {:?}: {error}", String::from_utf8_lossy(&seen))
            })?;
            match frame {
                (BINARY, message) if message.first() == Some(&(stream as u8)) => seen.extend_from_slice(&message[1..]),
                // Each stream opens with an empty message.
                (BINARY, message) if message.len() == 1 => {}
                (opcode, message) => {
                    let text = String::from_utf8_lossy(&message);
                    return Err(format!("frame {opcode} in place of {wanted:?}: {text:?}").into());
                }
            }
        }
        Ok(())
    }

    /// Ends the session as a client does that leaves, and waits until the server has ended it too.
    pub fn close(mut self) -> Result<()> {
        const NORMAL: u16 = 1000;
        self.write_frame(CLOSE, &NORMAL.to_be_bytes())?;
        match self.connection.read_to_end(&mut Vec::new()) {
            // The server need not read what is on its way to it when it closes.
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn write_frame(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        // Longer ones have a longer header.
        let length = u8::try_from(payload.len()).ok().filter(|&length| length < 126).ok_or("too long a message")?;
        let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let frame: Vec<u8> = [FINAL | opcode, 0x80 | length].into_iter().chain(MASK).chain(masked).collect();
        Ok(self.connection.get_mut().write_all(&frame)?)
    }

    fn read_frame(&mut self) -> Result<(u8, Vec<u8>)> {
        let [first, length] = self.read_array()?;
        let length = match length {
            126 => u16::from_be_bytes(self.read_array()?).into(),
            127 => u64::from_be_bytes(self.read_array()?),
            short @ ..126 => short.into(),
            masked => return Err(format!("a server's frame is masked: {masked:#x}").into()),
        };
        if first & FINAL == 0 || length > LONGEST {
            return Err(format!("unexpected frame {first:#x} of {length} bytes").into());
        }
        let mut payload = vec![0; usize::try_from(length)?];
        self.connection.read_exact(&mut payload)?;
        Ok((first & 0xf, payload))
    }

    fn read_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.connection.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
