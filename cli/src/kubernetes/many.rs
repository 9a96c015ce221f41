//! Asking many at once, but not too many, with a line that says how far it is.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};

use crate::output;

/// So many are asked at once: each is a connection through the API server.
const AT_ONCE: usize = 16;
/// What takes longer says how far it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// What `ask` makes of each of `items`, in no order; `what` are they, for people.
pub(crate) async fn ask_each<T, F: Future>(
    what: &str,
    items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    ask: impl Fn(T) -> F,
) -> Vec<F::Output> {
    let items = items.into_iter();
    let total = items.len();
    let mut answers = Vec::with_capacity(total);
    let mut asked = stream::iter(items).map(ask).buffer_unordered(AT_ONCE);
    let begun = Instant::now();
    let mut shown = false;
    while let Some(answer) = asked.next().await {
        answers.push(answer);
        if begun.elapsed() > PATIENCE && answers.len() < total {
            shown = true;
            output::progress(format_args!("asked {} of {total} {what}", answers.len()));
        }
    }
    if shown {
        output::progress("");
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn all_are_asked_and_never_too_many_at_once() {
        let (now, most) = (Cell::new(0), Cell::new(0));
        let mut answers = ask_each("numbers", 0..100, |number| {
            let (now, most) = (&now, &most);
            async move {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                tokio::task::yield_now().await;
                now.set(now.get() - 1);
                number
            }
        })
        .await;
        answers.sort_unstable();
        assert_eq!(answers, (0..100).collect::<Vec<_>>());
        assert_eq!(most.get(), AT_ONCE);
    }
}
