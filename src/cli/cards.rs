//! Verbs on a machine's network cards: what they are, what went through them, their addresses and cables.

use std::process::ExitCode;

use clap::Args;
use kiln_domain::Domain;
use kiln_domain::xml::Element;
use serde_json::{Value, json};

use super::machine::end;
use super::manner::{is_quiet, said};
use super::table::table;
use crate::failure::{Failure, Status};
use crate::machine::Known;
use crate::machine::running::Running;
use crate::runner::cards::is_meant;

/// List a machine's network cards
#[derive(Debug, Args)]
pub(super) struct List {
    /// Name of the machine
    name: String,
    /// As they will be at the next start
    #[arg(long)]
    inactive: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Print what has gone through a network card of a running machine
#[derive(Debug, Args)]
pub(super) struct Statistics {
    /// Name of the machine
    name: String,
    /// The card, by its name (vnet0) or MAC address
    interface: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Print the addresses that a running machine has been given
#[derive(Debug, Args)]
pub(super) struct Addresses {
    /// Name of the machine
    name: String,
    /// One card's alone, by its name (vnet0) or MAC address
    #[arg(long, value_name = "CARD")]
    interface: Option<String>,
    /// Name and MAC address on each line
    #[arg(long)]
    full: bool,
    /// Where they are known from; kiln gives the leases itself
    #[arg(long, value_name = "lease", default_value = "lease")]
    source: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Print whether a network card's cable is plugged in
#[derive(Debug, Args)]
pub(super) struct GetLink {
    /// Name of the machine
    name: String,
    /// The card, by its name (vnet0) or MAC address
    interface: String,
    /// At the next start
    #[arg(long)]
    config: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Plug a network card's cable in (up) or out (down)
#[derive(Debug, Args)]
pub(super) struct SetLink {
    /// Name of the machine
    name: String,
    /// The card, by its name (vnet0) or MAC address
    interface: String,
    /// up or down
    state: String,
    /// From the next start on
    #[arg(long)]
    config: bool,
}

/// A card as the verbs show it.
struct Card {
    name: Option<String>,
    kind: String,
    source: Option<String>,
    model: String,
    mac: String,
}

fn attribute(element: &Element, child: &str, name: &str) -> Option<String> {
    Some(element.find(child)?.attribute(name)?.to_owned())
}

fn is_card(element: &Element) -> bool {
    element.name() == "interface"
}

fn defined(domain: &Domain) -> Vec<Card> {
    let cards = domain.devices().filter(|device| is_card(device));
    let card = |element: &Element| Card {
        name: attribute(element, "target", "dev"),
        kind: element.attribute("type").unwrap_or_default().to_owned(),
        source: ["network", "bridge", "dev"].iter().find_map(|name| attribute(element, "source", name)),
        model: attribute(element, "model", "type").unwrap_or_else(|| "-".into()),
        mac: attribute(element, "mac", "address").unwrap_or_default(),
    };
    cards.map(card).collect()
}

fn plugged(running: &Running) -> Vec<Card> {
    let cards = running.record.network.cards.iter().cloned();
    let card = |card: crate::runner::cards::Plugged| Card {
        name: Some(card.name),
        kind: card.kind,
        source: card.source,
        model: "virtio".into(),
        mac: card.mac,
    };
    cards.map(card).collect()
}

impl List {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = Known::of(&self.name)?;
        let cards = match known.find()?.filter(|_| !self.inactive) {
            Some(running) => plugged(&running),
            None => defined(&known.definition()?),
        };
        let dash = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".into());
        let row = |c: &Card| vec![dash(&c.name), c.kind.clone(), dash(&c.source), c.model.clone(), c.mac.clone()];
        let rows: Vec<_> = cards.iter().map(row).collect();
        let data = cards.iter().map(
            |c| json!({ "interface": c.name, "type": c.kind, "source": c.source, "model": c.model, "mac": c.mac }),
        );
        end(self.json, &data.collect(), &table(&["Interface", "Type", "Source", "Model", "MAC"], &rows))
    }
}

/// The cards of a running machine as it tells of them; `what` is what can't be done otherwise.
fn ask(known: &Known, what: &str) -> Result<Vec<Value>, Failure> {
    let Some(running) = known.find()? else {
        return Err(Failure::new(Status::Failed, what)
            .why("Requested operation is not valid: domain is not running")
            .advise(format!("kiln start {}", known.name))
            .in_virsh("Requested operation is not valid: domain is not running")
            .headed_in_virsh(what));
    };
    cards_of(&running)
}

fn cards_of(running: &Running) -> Result<Vec<Value>, Failure> {
    let answer = running.command("kiln-cards", None)?;
    Ok(answer.as_array().cloned().unwrap_or_default())
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn is_told(card: &Value, wanted: &str) -> bool {
    is_meant(card["name"].as_str(), word(card, "mac"), wanted)
}

/// The one of a running machine's cards that is meant.
fn find<'a>(cards: &'a [Value], wanted: &str) -> Option<&'a Value> {
    cards.iter().find(|card| is_told(card, wanted))
}

impl Statistics {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = Known::of(&self.name)?;
        let what = format!("Failed to get interface stats {} {}", self.name, self.interface);
        let cards = ask(&known, &what)?;
        let card = find(&cards, &self.interface).ok_or_else(|| {
            let why = format!("invalid argument: '{}' is not a known interface", self.interface);
            Failure::new(Status::NotFound, what.clone())
                .why(why.clone())
                .advise(format!("kiln domiflist {}", self.name))
                .in_virsh(why)
                .headed_in_virsh(what)
        })?;
        let (mut text, mut data) = (String::new(), serde_json::Map::new());
        for way in ["rx", "tx"] {
            for count in ["bytes", "packets", "errs", "drop"] {
                let number = card[way][count].as_u64().unwrap_or_default();
                text.push_str(&format!("{} {way}_{count} {number}\n", self.interface));
                data.insert(format!("{way}_{count}"), number.into());
            }
        }
        end(self.json, &data.into(), &text)
    }
}

impl Addresses {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let what = "Failed to query for interfaces addresses";
        match self.source.as_str() {
            "lease" => {}
            "agent" => return Err(refused(what, "kiln talks to no agent in guests yet")),
            "arp" => return Err(refused(what, "a user-mode network is in no ARP table of the host's")),
            other => {
                return Err(Failure::new(Status::Usage, format!("--source {other}: lease is expected"))
                    .in_virsh(format!("Unknown data source '{other}'")));
            }
        }
        let known = Known::of(&self.name)?;
        let cards = ask(&known, what)?;
        let head = " Name       MAC address          Protocol     Address\n".to_owned() + &"-".repeat(79) + "\n";
        let mut text = if is_quiet() { String::new() } else { head };
        let mut data = Vec::new();
        for card in cards.iter().filter(|card| self.interface.as_deref().is_none_or(|wanted| is_told(card, wanted))) {
            for (number, lease) in card["leases"].as_array().into_iter().flatten().enumerate() {
                let (name, mac, address) = (word(card, "name"), word(lease, "mac"), word(lease, "address"));
                let (prefix, kind) = (&lease["prefix"], if address.contains(':') { "ipv6" } else { "ipv4" });
                // As virsh: the first line of a card alone names it.
                let (shown, shown_mac) = if number == 0 || self.full { (name, mac) } else { ("-", "-") };
                text.push_str(&format!(" {shown:<10} {shown_mac:<20} {kind:<8}     {address}/{prefix}\n"));
                data.push(json!({
                    "interface": name, "mac": mac, "protocol": kind, "address": address, "prefix": prefix,
                    "name": lease["name"],
                }));
            }
        }
        end(self.json, &data.into(), &text)
    }
}

fn refused(what: &str, why: &str) -> Failure {
    Failure::new(Status::Failed, what).why(why).advise("kiln domifaddr NAME tells what kiln's own DHCP has given.")
}

fn not_found(name: &str, machine: &str) -> Failure {
    Failure::new(Status::NotFound, format!("interface '{name}' not found")).advise(format!("kiln domiflist {machine}"))
}

impl GetLink {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = Known::of(&self.name)?;
        let state = match known.find()?.filter(|_| !self.config) {
            Some(running) => {
                let cards = cards_of(&running)?;
                find(&cards, &self.interface)
                    .map(|card| if card["link"] == true { "up".to_owned() } else { "down".into() })
            }
            None => {
                let domain = known.definition()?;
                let found = domain.devices().find(|device| is_wanted(device, &self.interface));
                found.map(|card| attribute(card, "link", "state").unwrap_or_else(|| "up".into()))
            }
        };
        let state = state.ok_or_else(|| not_found(&self.interface, &self.name))?;
        let data = json!({ "interface": self.interface, "link": state });
        end(self.json, &data, &format!("{} {state}\n", self.interface))
    }
}

fn is_wanted(device: &Element, wanted: &str) -> bool {
    let mac = attribute(device, "mac", "address").unwrap_or_default();
    is_card(device) && is_meant(attribute(device, "target", "dev").as_deref(), &mac, wanted)
}

impl SetLink {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = Known::of(&self.name)?;
        let up = match self.state.as_str() {
            "up" => true,
            "down" => false,
            other => {
                return Err(Failure::new(Status::Usage, format!("{other:?}: up or down is expected"))
                    .in_virsh(format!("invalid link state '{other}'")));
            }
        };
        match known.find()? {
            Some(running) if !self.config => {
                let cards = &running.record.network.cards;
                if !cards.iter().any(|card| card.is(&self.interface)) {
                    return Err(not_found(&self.interface, &self.name));
                }
                running.command_with("set_link", json!({ "name": self.interface, "up": up }), None)?;
            }
            running => {
                // A name that the running machine's card has stands for its address.
                let cards = running.map(|running| running.record.network.cards).unwrap_or_default();
                let mac = cards.into_iter().find(|card| card.name == self.interface).map(|card| card.mac);
                self.define(&known, mac.as_deref().unwrap_or(&self.interface), up)?;
            }
        }
        said("Device updated successfully\n")
    }

    fn define(&self, known: &Known, card: &str, up: bool) -> Result<(), Failure> {
        let changing = known.store.change()?;
        let mut domain = known.definition()?;
        let devices = domain.root_mut().find_or_make("devices");
        let card = devices.children_mut().find(|device| is_wanted(device, card));
        let card = card.ok_or_else(|| not_found(&self.interface, &self.name))?;
        card.find_or_make("link").set("state", if up { "up" } else { "down" });
        changing.write(&self.name, &domain)
    }
}
