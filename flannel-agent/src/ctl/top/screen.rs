//! Draws the screen: one column on narrow terminals, two on wide ones.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Paragraph, Row, Sparkline, Table},
};

use super::{View, rates::Rate};
use crate::{
    ctl::{
        lists::{protocol, way},
        table::{bit_rate, duration, packet_rate},
    },
    events::now,
    http::faults,
};

/// From so many columns on, peers and flows stand side by side.
const WIDE: u16 = 140;
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let [head, chart, body, foot] =
        Layout::vertical([Constraint::Length(4), Constraint::Length(5), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    draw_head(frame, head, view);
    draw_chart(frame, chart, view);
    if frame.area().width >= WIDE {
        let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(body);
        let [peers, reasons] = Layout::vertical([Constraint::Percentage(65), Constraint::Percentage(35)]).areas(left);
        draw_peers(frame, peers, view);
        draw_reasons(frame, reasons, view);
        draw_flows(frame, right, view);
    } else {
        let parts = [Constraint::Percentage(35), Constraint::Percentage(40), Constraint::Percentage(25)];
        let [peers, flows, reasons] = Layout::vertical(parts).areas(body);
        draw_peers(frame, peers, view);
        draw_flows(frame, flows, view);
        draw_reasons(frame, reasons, view);
    }
    draw_foot(frame, foot, view);
}

fn both(rate: Rate) -> String {
    format!("{} {}", bit_rate(rate.bytes), packet_rate(rate.packets))
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let (node, rates) = (&view.rates.node, &view.rates);
    let lease = node.lease.as_ref().map_or("no lease".to_owned(), |lease| {
        let left =
            lease.expires_at.map_or("reserved".to_owned(), |at| format!("{} left", duration(at.saturating_sub(now()))));
        format!("{} {left}", lease.subnet)
    });
    let etcd = if node.store.connected { "etcd connected" } else { "etcd AWAY" };
    let all = rates.fast.packets + rates.slow.packets;
    let share = if all > 0.0 { format!("{:.0} % fast", rates.fast.packets * 100.0 / all) } else { "idle".to_owned() };
    let lines = vec![
        Line::from(vec![
            Span::styled("flannel ", BOLD),
            Span::raw(format!("{lease}, {} peers, {etcd}", node.peers.len())),
        ]),
        Line::from(format!(
            "fast path {}, {} hooks, {} flows",
            node.fastpath.mode,
            node.fastpath.hooks.len(),
            rates.flows.len()
        )),
        Line::from(vec![
            Span::styled("fast ", Style::new().fg(Color::Green)),
            Span::raw(both(rates.fast)),
            Span::styled("   slow ", Style::new().fg(Color::Yellow)),
            Span::raw(both(rates.slow)),
            Span::styled(format!("   {share}"), BOLD),
        ]),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_chart(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let width = area.width.saturating_sub(2) as usize;
    let skip = view.history.len().saturating_sub(width);
    let data: Vec<u64> = view.history.iter().skip(skip).map(|(fast, slow)| fast + slow).collect();
    let peak = bit_rate(data.iter().copied().max().unwrap_or(0) as f64);
    let block = Block::bordered().title(format!(" all traffic with peers, peak {peak} "));
    frame.render_widget(Sparkline::default().block(block).data(&data).style(Style::new().fg(Color::Green)), area);
}

fn draw_peers(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let rows = view.rates.peers.iter().map(|(row, to, from, fast)| {
        Row::new([
            row.peer.subnet.to_string(),
            row.peer.public_ip.to_string(),
            way(row.peer.way).to_owned(),
            bit_rate(to.bytes),
            bit_rate(from.bytes),
            format!("{fast:.0} %"),
        ])
    });
    let widths = [18, 15, 11, 9, 9, 5].map(Constraint::Length);
    let head = Row::new(["SUBNET", "HOST", "WAY", "TO", "FROM", "FAST"]).style(BOLD);
    frame.render_widget(Table::new(rows, widths).header(head).block(Block::bordered().title(" peers ")), area);
}

fn draw_flows(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let rows = view.rates.flows.iter().take(area.height as usize).map(|(row, rate)| {
        Row::new([
            protocol(row.proto),
            format!("{}:{}", row.src, row.sport),
            format!("{}:{}", row.dst, row.dport),
            bit_rate(rate.bytes),
            row.slow.clone().unwrap_or_else(|| "fast".to_owned()),
        ])
    });
    let widths = [
        Constraint::Length(5),
        Constraint::Length(21),
        Constraint::Length(21),
        Constraint::Length(9),
        Constraint::Min(4),
    ];
    let head = Row::new(["", "FROM", "TO", "RATE", "STATE"]).style(BOLD);
    frame.render_widget(Table::new(rows, widths).header(head).block(Block::bordered().title(" flows ")), area);
}

fn draw_reasons(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let rows = view
        .rates
        .reasons
        .iter()
        .map(|(reason, rate)| Row::new([reason.clone(), packet_rate(rate.packets), bit_rate(rate.bytes)]));
    let widths = [18, 11, 11].map(Constraint::Length);
    let head = Row::new(["REASON", "PACKETS", "RATE"]).style(BOLD);
    frame.render_widget(
        Table::new(rows, widths).header(head).block(Block::bordered().title(" what hooks decided ")),
        area,
    );
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let faults = faults(&view.rates.node, now());
    let line = match (&view.trouble, faults.len()) {
        (Some(trouble), _) => Span::styled(trouble.clone(), Style::new().fg(Color::Red)),
        (None, 0) => Span::raw("q quits"),
        (None, count) => {
            Span::styled(format!("q quits   {count} things are wrong: flannelctl status"), Style::new().fg(Color::Red))
        }
    };
    frame.render_widget(Paragraph::new(line), area);
}
