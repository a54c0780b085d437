//! `list`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::machine::{done, end};
use super::table::table;
use crate::failure::Failure;
use crate::machine::{Known, Store, running};

/// List machines: those that run, or all
#[derive(Debug, Args)]
pub(super) struct List {
    /// Those that are shut off, too
    #[arg(long)]
    all: bool,
    /// Those that are shut off
    #[arg(long)]
    inactive: bool,
    /// Those that run, among them
    #[arg(long)]
    state_running: bool,
    /// Those that are paused, among them
    #[arg(long)]
    state_paused: bool,
    /// Those that are shut off, among them
    #[arg(long)]
    state_shutoff: bool,
    /// Those that are defined, among them
    #[arg(long)]
    persistent: bool,
    /// Those that are gone when they stop, among them
    #[arg(long)]
    transient: bool,
    /// Names alone
    #[arg(long)]
    name: bool,
    /// Uuids alone
    #[arg(long)]
    uuid: bool,
    /// Numbers alone
    #[arg(long)]
    id: bool,
    /// A table, as without an option
    #[arg(long, conflicts_with_all = ["name", "uuid", "id"])]
    table: bool,
    /// With their titles
    #[arg(long)]
    title: bool,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["name", "uuid", "id", "table"])]
    json: bool,
    #[command(flatten)]
    having: Having,
}

/// What virsh can choose machines by and kiln's don't have: all are without it.
#[derive(Debug, Args)]
struct Having {
    /// Those in another state, among them: those that don't answer
    #[arg(long, hide = true)]
    state_other: bool,
    /// Those that start with the host, among them
    #[arg(long, hide = true)]
    autostart: bool,
    /// Those that don't start with the host, among them
    #[arg(long, hide = true)]
    no_autostart: bool,
    /// Those with snapshots, among them
    #[arg(long, hide = true)]
    with_snapshot: bool,
    /// Those without snapshots, among them
    #[arg(long, hide = true)]
    without_snapshot: bool,
    /// Those with checkpoints, among them
    #[arg(long, hide = true)]
    with_checkpoint: bool,
    /// Those without checkpoints, among them
    #[arg(long, hide = true)]
    without_checkpoint: bool,
    /// Those with saved state, among them
    #[arg(long, hide = true)]
    with_managed_save: bool,
    /// Those without saved state, among them
    #[arg(long, hide = true)]
    without_managed_save: bool,
    /// Mark those with saved state
    #[arg(long, hide = true)]
    managed_save: bool,
}

impl Having {
    // Whether machines that have nothing of it are wanted.
    fn wants_those_without(&self) -> bool {
        let pairs = [
            (self.autostart, self.no_autostart),
            (self.with_snapshot, self.without_snapshot),
            (self.with_checkpoint, self.without_checkpoint),
            (self.with_managed_save, self.without_managed_save),
        ];
        pairs.iter().all(|(with, without)| *without || !with)
    }
}

/// The state of a machine whose process is there and doesn't answer.
const NO_STATE: &str = "no state";

struct Row {
    runs: bool,
    /// None also while what was written down of its start can't be read.
    id: Option<u32>,
    name: String,
    state: &'static str,
    uuid: String,
    title: String,
    persistent: bool,
}

impl Row {
    fn of(known: &Known) -> Self {
        let (runs, state) = match known.find().and_then(|found| found.map_or(Ok(None), |running| running.state())) {
            Ok(Some((state, _))) => (true, state),
            Ok(None) => (false, "shut off"),
            // One that doesn't answer must not hide the others.
            Err(failure) => {
                eprintln!("note: {}", [&[failure.what][..], &failure.causes, &failure.advice].concat().join(": "));
                (true, NO_STATE)
            }
        };
        let id = running::record(known.store.folders(), &known.name).map(|record| record.id).filter(|_| runs);
        let document = known.document().ok();
        let text = |path: &str| document.as_ref().and_then(|document| document.text(path)).unwrap_or_default();
        let (uuid, title) = (text("uuid"), text("title"));
        Self { runs, id, name: known.name.clone(), state, uuid, title, persistent: known.is_persistent() }
    }
}

impl List {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let store = Store::here()?;
        let off = self.all || self.inactive || self.state_shutoff;
        let mut names = if off { store.names()? } else { vec![] };
        names.extend(running::names(store.folders()));
        names.sort();
        names.dedup();
        let known = names.into_iter().map(|name| Known { store: store.clone(), name });
        let mut rows: Vec<Row> = known.map(|known| Row::of(&known)).filter(|row| self.is_wanted(row)).collect();
        // As virsh: by number, then those without one by name.
        rows.sort_by_key(|row| row.id.unwrap_or(u32::MAX));
        if self.json {
            let row = |row: &Row| {
                json!({
                    "id": row.id, "name": row.name, "state": row.state, "uuid": row.uuid, "title": row.title,
                    "persistent": row.persistent,
                })
            };
            return end(true, &rows.iter().map(row).collect(), "");
        }
        if self.name || self.uuid || self.id {
            return done(&rows.iter().map(|row| self.words(row)).collect::<String>());
        }
        let mut head = vec!["Id", "Name", "State"];
        if self.title {
            head.push("Title");
        }
        let row = |row: &Row| {
            let mut words = vec![number(row), row.name.clone(), row.state.to_owned()];
            words.extend(self.title.then(|| row.title.clone()));
            words
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        done(&table(&head, &rows))
    }

    fn is_wanted(&self, row: &Row) -> bool {
        let by_activity = self.all || if self.inactive { !row.runs } else { row.runs || self.state_shutoff };
        let states = [
            (self.state_running, "running"),
            (self.state_paused, "paused"),
            (self.state_shutoff, "shut off"),
            (self.having.state_other, NO_STATE),
        ];
        let by_state = states.iter().all(|(asked, _)| !asked) || states.contains(&(true, row.state));
        let by_life = self.persistent == self.transient || self.persistent == row.persistent;
        by_activity && by_state && by_life && self.having.wants_those_without()
    }

    // What of it was asked for alone, as virsh orders it.
    fn words(&self, row: &Row) -> String {
        let id = self.id.then(|| number(row));
        let uuid = self.uuid.then(|| row.uuid.clone());
        let name = self.name.then(|| row.name.clone());
        let words: Vec<String> = [id, uuid, name].into_iter().flatten().collect();
        words.join(" ") + "\n"
    }
}

fn number(row: &Row) -> String {
    row.id.map_or_else(|| "-".into(), |id| id.to_string())
}
