//! Questions to a netlink protocol, asked one after the other by a socket of their own.

use std::io;

use rtnetlink::{
    packet_core::{
        NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    },
    sys::{Socket, SocketAddr},
};

/// Who asks.
pub(super) struct Asker {
    socket: Socket,
    sequence: u32,
}

impl Asker {
    /// One of a protocol (`NETLINK_*`), in the network namespace of this thread.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Asks. All answers to this are to be taken before the next question.
    pub(super) fn send<M: NetlinkSerializable>(
        &mut self,
        flags: u16,
        message: impl Into<NetlinkPayload<M>>,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, message.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Takes answers up to the last one, which may be an error.
    pub(super) fn answers<M: NetlinkDeserializable>(
        &mut self,
        mut take: impl FnMut(NetlinkMessage<M>),
    ) -> io::Result<()> {
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                // Messages begin at multiples of four bytes.
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                if let NetlinkPayload::Error(error) = &message.payload {
                    return error.code.map_or(Ok(()), |_| Err(error.to_io()));
                }
                let last = matches!(message.payload, NetlinkPayload::Done(_));
                take(message);
                if last {
                    return Ok(());
                }
            }
        }
    }
}
