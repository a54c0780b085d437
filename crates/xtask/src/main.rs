//! Developer commands: `cargo xtask demo | test | lab | bench | e2e | peers`.

mod bench;
mod bench_guest;
mod bench_image;
mod bench_vnc;
mod cargo;
mod clients;
mod demo;
mod e2e;
mod lab;
mod meter;
mod peers;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of kiln.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Words {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Demo(demo::Demo),
    Test(test::Test),
    Lab(lab::Run),
    Bench(bench::Bench),
    E2e(e2e::E2e),
    Peers(peers::Peers),
    #[command(hide = true)]
    Meter(meter::Meter),
    #[command(hide = true)]
    Stages(bench_guest::stages::Stages),
    #[command(hide = true)]
    Ration(bench_image::Ration),
    #[command(hide = true)]
    Floor(bench_image::Floor),
}

fn main() -> ExitCode {
    let outcome = match Words::parse().task {
        Task::Demo(demo) => demo.run(),
        Task::Test(test) => test.run(),
        Task::Lab(lab) => lab.run(),
        Task::Bench(bench) => bench.run(),
        Task::E2e(e2e) => e2e.run(),
        Task::Peers(peers) => peers.run(),
        Task::Meter(meter) => meter.run(),
        Task::Stages(stages) => stages.run(),
        Task::Ration(ration) => ration.run(),
        Task::Floor(floor) => floor.run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
