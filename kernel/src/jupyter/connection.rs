//! The connection file: where a kernel listens and the key that signs its messages.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::environment::random_hex;
use crate::base::failure::Failure;

/// What the connection file says. A port of 0 means "any free one"; [`super::server`] then writes the file anew.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct Connection {
    /// `tcp`.
    pub transport: String,
    /// A loopback address.
    pub ip: String,
    /// Port of requests.
    pub shell_port: u16,
    /// Port of outputs and status.
    pub iopub_port: u16,
    /// Port of questions to the user.
    pub stdin_port: u16,
    /// Port of requests that do not wait for a running cell.
    pub control_port: u16,
    /// Port of the heartbeat.
    pub hb_port: u16,
    /// `hmac-sha256`.
    pub signature_scheme: String,
    /// The shared secret.
    pub key: String,
    /// What a client wrote for itself, such as `kernel_name`.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Connection {
    /// A connection on free ports of this machine, with a fresh key.
    pub fn any_ports() -> Result<Connection, Failure> {
        let key = random_hex(32).map_err(|e| e.or_help("restart the machine, or report this"))?;
        Ok(Connection {
            transport: "tcp".into(),
            ip: "127.0.0.1".into(),
            shell_port: 0,
            iopub_port: 0,
            stdin_port: 0,
            control_port: 0,
            hb_port: 0,
            signature_scheme: "hmac-sha256".into(),
            key,
            other: serde_json::Map::new(),
        })
    }

    /// Reads and checks a connection file.
    pub fn read(path: &Path) -> Result<Connection, Failure> {
        let help = "a connection file is written by Jupyter; to run a notebook, use `onelens run NOTEBOOK`";
        let text = fs::read_to_string(path).map_err(|e| {
            Failure::new(format!("cannot read the connection file {}: {e}", path.display()), help)
        })?;
        let connection: Connection = serde_json::from_str(&text)
            .map_err(|e| Failure::new(format!("{} is not a connection file: {e}", path.display()), help))?;
        connection.address()?;
        if connection.key.is_empty() {
            eprintln!(
                "onelens: the connection file has no key, so messages are not signed and whoever reaches the ports runs programs as you: remove the empty `Session.key` from your Jupyter configuration"
            );
        }
        let mode = fs::metadata(path).map_or(0, |m| m.permissions().mode());
        if mode & 0o077 != 0 {
            // As peers do: some systems of shared folders know no permissions.
            eprintln!(
                "onelens: other users may read the connection file, and with its key run programs as you: chmod 600 {}",
                path.display()
            );
        }
        Ok(connection)
    }

    /// The address, after checking that nobody outside this machine is let in and that the rest is understood.
    pub fn address(&self) -> Result<IpAddr, Failure> {
        if self.transport != "tcp" {
            return Err(Failure::new(
                format!("the transport is {:?}", self.transport),
                "only \"tcp\" is supported: remove `transport` from your Jupyter configuration",
            ));
        }
        if self.signature_scheme != "hmac-sha256" {
            return Err(Failure::new(
                format!("the signature scheme is {:?}", self.signature_scheme),
                "only \"hmac-sha256\", Jupyter's default, is supported",
            ));
        }
        let ip = if self.ip == "localhost" { "127.0.0.1" } else { &self.ip };
        match ip.parse::<IpAddr>() {
            Ok(ip) if ip.is_loopback() => Ok(ip),
            _ => Err(Failure::new(
                format!("the address {:?} is not on this machine alone", self.ip),
                "whoever reaches a kernel can run programs; use 127.0.0.1 and an SSH tunnel",
            )),
        }
    }

    /// Writes the file, readable by its owner only, in one step: a reader sees the old content or the new.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        write_private(path, &text).map_err(|e| {
            Failure::new(
                format!("cannot write the connection file {}: {e}", path.display()),
                "check that the folder exists and is writable",
            )
        })
    }

    /// Whether every port is known.
    pub fn is_bound(&self) -> bool {
        ![self.shell_port, self.iopub_port, self.stdin_port, self.control_port, self.hb_port].contains(&0)
    }
}

/// Writes a file that only its owner can read, in one step.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
