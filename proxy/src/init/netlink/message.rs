//! Netlink messages as bytes: written attribute by attribute, and read back.
//!
//! A message is a header of 16 bytes in the machine's byte order, a fixed part that depends on its
//! kind, and attributes: length, number, value, each padded to 4 bytes (netlink(7)).

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// That the value of an attribute is attributes.
const NESTED: u16 = 1 << 15;
/// An attribute's number without its flags.
const NUMBER: u16 = 0x3fff;

/// What a message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
}

/// Messages one after the other, as they are sent.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    /// Where the last one begins.
    last: usize,
}

impl Messages {
    /// Adds a message with its fixed part and what `write` gives it as attributes.
    pub(crate) fn push(
        &mut self,
        header: Header,
        fixed: &[u8],
        write: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.last = start;
        self.bytes.extend([0; 4]);
        self.bytes.extend(header.kind.to_ne_bytes());
        self.bytes.extend(header.flags.to_ne_bytes());
        self.bytes.extend(header.sequence.to_ne_bytes());
        // The port of the sender: the kernel's to fill in.
        self.bytes.extend([0; 4]);
        self.bytes.extend(fixed);
        pad(&mut self.bytes);
        write(&mut Attributes {
            bytes: &mut self.bytes,
        });
        // A message is bounded by `MOST_EXCLUSIONS`; should it not be, the kernel refuses it.
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sets flags of the last message.
    pub(crate) fn flag_last(&mut self, flags: u16) {
        for (byte, flag) in self
            .bytes
            .iter_mut()
            .skip(self.last + 6)
            .zip(flags.to_ne_bytes())
        {
            *byte |= flag;
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Attributes at the end of a message or of another attribute.
#[derive(Debug)]
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(crate) fn bytes(&mut self, number: u16, value: &[u8]) {
        self.attribute(number, |bytes| bytes.extend(value));
    }

    /// A number in the order of the network, as netfilter has all of its numbers.
    pub(crate) fn number(&mut self, number: u16, value: u32) {
        self.bytes(number, &value.to_be_bytes());
    }

    /// A number in the order of the machine, as routing has its numbers.
    pub(crate) fn native(&mut self, number: u16, value: u32) {
        self.bytes(number, &value.to_ne_bytes());
    }

    /// With the zero that ends a text in C.
    pub(crate) fn text(&mut self, number: u16, value: &str) {
        self.attribute(number, |bytes| {
            bytes.extend(value.as_bytes());
            bytes.push(0);
        });
    }

    pub(crate) fn nested(&mut self, number: u16, write: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(number | NESTED, |bytes| write(&mut Attributes { bytes }));
    }

    fn attribute(&mut self, number: u16, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(number.to_ne_bytes());
        write(self.bytes);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        pad(self.bytes);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message that was received; `body` is its fixed part and its attributes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) header: Header,
    pub(crate) body: &'a [u8],
}

/// The messages in what was received at once; ends at what is not one.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(field(bytes, 0)?)).ok()?;
        let message = Message {
            header: Header {
                kind: u16::from_ne_bytes(field(bytes, 4)?),
                flags: u16::from_ne_bytes(field(bytes, 6)?),
                sequence: u32::from_ne_bytes(field(bytes, 8)?),
            },
            body: bytes.get(HEADER..length)?,
        };
        bytes = after(bytes, length);
        Some(message)
    })
}

/// The attributes, each as its number and its value; ends at what is not one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(field(bytes, 0)?));
        let number = u16::from_ne_bytes(field(bytes, 2)?) & NUMBER;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = after(bytes, length);
        Some((number, value))
    })
}

/// The value of the first attribute of this number.
pub(crate) fn attribute(bytes: &[u8], number: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == number).then_some(value))
}

/// The attribute of this number as a number in the order of the network.
pub(crate) fn number(bytes: &[u8], number: u16) -> Option<u32> {
    Some(u32::from_be_bytes(
        attribute(bytes, number)?.try_into().ok()?,
    ))
}

/// The attribute of this number as a number in the order of the machine.
pub(crate) fn native(bytes: &[u8], number: u16) -> Option<u32> {
    Some(u32::from_ne_bytes(
        attribute(bytes, number)?.try_into().ok()?,
    ))
}

/// The attribute of this number as text.
pub(crate) fn text(bytes: &[u8], number: u16) -> Option<String> {
    let value = attribute(bytes, number)?;
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    Some(String::from_utf8_lossy(value).into_owned())
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn after(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(length.next_multiple_of(4)..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: Header = Header {
        kind: 0x0a03,
        flags: 0x0401,
        sequence: 7,
    };

    #[test]
    fn a_message_is_laid_out_as_netlink_says() {
        let mut messages = Messages::default();
        messages.push(HEADER, &[1, 0, 0, 0], |attributes| {
            attributes.text(1, "ab");
            attributes.nested(4, |hook| hook.number(2, 0x0102_0304));
        });
        let mut expected = Vec::new();
        expected.extend(40_u32.to_ne_bytes());
        expected.extend(0x0a03_u16.to_ne_bytes());
        expected.extend(0x0401_u16.to_ne_bytes());
        expected.extend(7_u32.to_ne_bytes());
        expected.extend([0; 4]);
        expected.extend([1, 0, 0, 0]);
        expected.extend(7_u16.to_ne_bytes());
        expected.extend(1_u16.to_ne_bytes());
        expected.extend(*b"ab\0\0");
        expected.extend(12_u16.to_ne_bytes());
        expected.extend((NESTED | 4).to_ne_bytes());
        expected.extend(8_u16.to_ne_bytes());
        expected.extend(2_u16.to_ne_bytes());
        expected.extend([1, 2, 3, 4]);
        assert_eq!(messages.bytes(), expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut sent = Messages::default();
        for sequence in [7, 8] {
            let header = Header { sequence, ..HEADER };
            sent.push(header, &[9; 4], |attributes| {
                attributes.text(1, "name");
                attributes.nested(2, |inner| inner.bytes(3, &[1, 2, 3]));
                attributes.native(5, 2102);
            });
        }
        sent.flag_last(0x0a);
        let received: Vec<Message<'_>> = messages(sent.bytes()).collect();
        assert_eq!(received.len(), 2);
        assert_eq!(received[0].header.flags, HEADER.flags);
        assert_eq!(received[1].header.flags, HEADER.flags | 0x0a);
        assert_eq!(received[1].header.sequence, 8);
        let body = &received[1].body[4..];
        assert_eq!(text(body, 1).as_deref(), Some("name"));
        assert_eq!(
            attribute(attribute(body, 2).unwrap(), 3),
            Some(&[1, 2, 3][..])
        );
        assert_eq!(native(body, 5), Some(2102));
        assert_eq!((number(body, 9), text(body, 9)), (None, None));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_to_an_end(bytes: Vec<u8>) {
            for message in messages(&bytes) {
                prop_assert!(attributes(message.body).count() <= bytes.len());
            }
        }
    }
}
