//! What holds for the decoder whatever a peer sends.

use std::fmt::Debug;

use pst::wire::{DecodeError, Decoder, Message};

/// The first byte says in pieces of which size the rest comes; 0: all at once.
pub fn check<M: Message + Debug + PartialEq>(data: &[u8]) {
    let Some((&piece, bytes)) = data.split_first() else {
        return;
    };
    let (messages, error) = decode::<M>([bytes].into_iter());
    let mut again = Vec::new();
    for message in &messages {
        message.encode(&mut again);
    }
    assert!(bytes.starts_with(&again), "other bytes: {messages:?}");
    if let Some(error) = error {
        assert!(!error.to_string().contains('\n'));
    }
    if piece > 0 {
        let pieces = decode::<M>(bytes.chunks(usize::from(piece)));
        assert_eq!(pieces, (messages, error), "in pieces of {piece}");
    }
}

/// What comes out, and the error that ends it.
fn decode<'a, M: Message + Debug + PartialEq>(
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<M>, Option<DecodeError>) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    decoder.push(b"\x01\x00\x02\x01\x00\x88");
                    assert_eq!(decoder.next_message(), Err(error), "an error is final");
                    return (messages, Some(error));
                }
            }
        }
    }
    (messages, None)
}
