//! The demo in a terminal: a header with the scene, one row for each edge, the claims so far.

use std::io;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row as Cells, Table, Wrap};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::board::{Claim, Shown};
use super::scenes::COUNT;
use crate::telemetry::edges::Row;
use crate::telemetry::tables;

/// How often the screen is drawn.
const FRAME: Duration = Duration::from_millis(200);
/// How long the keyboard is waited for before the thread looks whether it is still needed.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// From this width on identities are shown in full.
const WIDE: u16 = 150;

/// Draws until someone types q or Ctrl-C.
pub(super) async fn run(shown: watch::Receiver<Shown>) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let mut quit = quit_keys();
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let result = loop {
        tokio::select! {
            _ = quit.recv() => break Ok(()),
            _ = frames.tick() => {
                let now = shown.borrow().clone();
                if let Err(error) = terminal.draw(|frame| draw(frame, &now)) {
                    break Err(error);
                }
            }
        }
    };
    ratatui::restore();
    result
}

/// Reads the keyboard on a thread of its own, which ends when the receiver is dropped.
fn quit_keys() -> mpsc::Receiver<()> {
    let (quit, received) = mpsc::channel(1);
    std::thread::spawn(move || {
        while !quit.is_closed() {
            let pressed = match event::poll(KEY_WAIT) {
                Ok(true) => event::read(),
                Ok(false) => continue,
                Err(_) => return,
            };
            if pressed.is_ok_and(|event| is_quit(&event)) {
                let _ = quit.blocking_send(());
                return;
            }
        }
    });
    received
}

fn is_quit(event: &Event) -> bool {
    let Event::Key(key) = event else {
        return false;
    };
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (control_c || key.code == KeyCode::Char('q'))
}

fn draw(frame: &mut Frame<'_>, shown: &Shown) {
    let edges = u16::try_from(shown.rows.len())
        .unwrap_or(u16::MAX)
        .saturating_add(3);
    let [header, table, claims, news] = Layout::vertical([
        Constraint::Length(5),
        Constraint::Length(edges.max(8)),
        Constraint::Min(4),
        Constraint::Length(5),
    ])
    .areas(frame.area());
    draw_header(frame, header, shown);
    draw_edges(frame, table, &shown.rows);
    draw_claims(frame, claims, &shown.claims);
    let lines: Vec<Line> = shown
        .news
        .iter()
        .map(|line| Line::from(line.as_str()))
        .collect();
    let block = Block::bordered().title(" processes ");
    frame.render_widget(
        Paragraph::new(lines).style(Color::DarkGray).block(block),
        news,
    );
}

fn draw_header(frame: &mut Frame<'_>, area: Rect, shown: &Shown) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let lines = match shown.heading {
        _ if shown.over => {
            let held = shown.claims.iter().filter(|claim| claim.holds).count();
            vec![
                Line::styled("That was the mesh; traffic goes on", bold),
                Line::from(format!(
                    "{held} of {} claims hold. Press q to end.",
                    shown.claims.len()
                )),
            ]
        }
        Some(heading) => vec![
            Line::styled(
                format!("{} of {COUNT}: {}", heading.number, heading.title),
                bold,
            ),
            Line::from(heading.shows),
            Line::styled(shown.doing.clone(), Color::Cyan),
        ],
        None => vec![Line::from("starting")],
    };
    let block = Block::bordered()
        .title(" outrider demo ")
        .title_bottom(" q ends it ");
    frame.render_widget(
        Paragraph::new(lines).wrap(Wrap { trim: true }).block(block),
        area,
    );
}

fn draw_edges(frame: &mut Frame<'_>, area: Rect, rows: &[Row]) {
    let wide = area.width >= WIDE;
    let heading = [
        "CALLER", "CALLEE", "REQ/S", "SUCCESS", "P50", "P99", "REFUSED",
    ];
    let header = Cells::new(heading).style(Style::new().add_modifier(Modifier::BOLD));
    let longest = |id: fn(&Row) -> &str| {
        let lengths = rows
            .iter()
            .map(|row| identity(id(row), wide).chars().count());
        Constraint::Length(u16::try_from(lengths.max().unwrap_or(0).max(6)).unwrap_or(u16::MAX))
    };
    let widths = [
        longest(|row| &row.edge.source),
        longest(|row| &row.edge.destination),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    let title = if wide {
        " edges "
    } else {
        " edges, NAMESPACE/ACCOUNT for the identity spiffe://…/ns/NAMESPACE/sa/ACCOUNT "
    };
    let table = Table::new(rows.iter().map(|row| cells(row, wide)), widths)
        .header(header)
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn cells(row: &Row, wide: bool) -> Cells<'static> {
    let success = match row.success {
        Some(success) => Cell::from(format!("{:.1} %", success * 100.0)).style(match success {
            good if good >= 0.999 => Color::Green,
            // What policy refuses is no fault.
            _ if !row.refused.is_empty() => Color::Yellow,
            _ => Color::Red,
        }),
        None => Cell::from("-"),
    };
    Cells::new([
        Cell::from(identity(&row.edge.source, wide)),
        Cell::from(identity(&row.edge.destination, wide)),
        Cell::from(format!("{:.1}", row.per_second)),
        success,
        Cell::from(tables::latency(row.p50_ms)),
        Cell::from(tables::latency(row.p99_ms)),
        Cell::from(tables::counted(&row.refused)).style(Color::Yellow),
    ])
}

/// A SPIFFE ID in full, or as NAMESPACE/ACCOUNT.
fn identity(id: &str, wide: bool) -> String {
    let short = id
        .split_once("/ns/")
        .and_then(|(_, rest)| rest.split_once("/sa/"))
        .filter(|_| !wide);
    short.map_or_else(
        || id.to_owned(),
        |(namespace, account)| format!("{namespace}/{account}"),
    )
}

/// The latest claims: on one line each, or on two where one is too short.
fn draw_claims(frame: &mut Frame<'_>, area: Rect, claims: &[Claim]) {
    let lines_each = if area.width >= WIDE { 1 } else { 2 };
    let fitting = usize::from(area.height.saturating_sub(2)) / lines_each;
    let hidden = claims.len().saturating_sub(fitting);
    let mut lines: Vec<Line> = Vec::new();
    for claim in claims.iter().skip(hidden) {
        let mark = if claim.holds {
            Span::styled("ok     ", Color::Green)
        } else {
            Span::styled("FAILED ", Color::Red)
        };
        let measured = Span::styled(claim.measured.as_str(), Color::Cyan);
        if lines_each == 1 {
            lines.push(Line::from(vec![
                mark,
                Span::from(format!("{}: ", claim.claim)),
                measured,
            ]));
        } else {
            lines.push(Line::from(vec![mark, Span::from(claim.claim.as_str())]));
            lines.push(Line::from(vec![Span::from("       "), measured]));
        }
    }
    let block = Block::bordered().title(" claims, and what was measured ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::telemetry::edges::Edge;

    #[test]
    fn the_screen_shows_edges_and_claims() {
        let shown = Shown {
            rows: vec![Row {
                edge: Edge {
                    source: "spiffe://shop.example/ns/shop/sa/order".to_owned(),
                    destination: "spiffe://shop.example/ns/shop/sa/billing".to_owned(),
                },
                per_second: 120.0,
                success: Some(1.0),
                p50_ms: Some(1.5),
                p99_ms: None,
                refused: BTreeMap::from([("authorization_denied".to_owned(), 5.0)]),
                mutual_tls: true,
            }],
            claims: vec![Claim {
                scene: 1,
                claim: "orders are allowed".to_owned(),
                measured: "200 of 200".to_owned(),
                holds: true,
            }],
            ..Shown::default()
        };
        let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
        terminal.draw(|frame| draw(frame, &shown)).unwrap();
        let screen = terminal.backend().to_string();
        for expected in [
            "shop/order ",
            "shop/billing ",
            "5 authorization_denied",
            "120.0",
            "100.0 %",
            "1.5 ms",
            "200 of 200",
        ] {
            assert!(screen.contains(expected), "{expected} is not in\n{screen}");
        }
    }
}
