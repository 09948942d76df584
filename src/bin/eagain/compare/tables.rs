//! Connection tables: an event brings a number, and the loop needs the connection that it names.
//!
//! All three give each connection a number that no other one ever has, so that an event which comes late finds nobody:
//! the slab by a generation, the maps by counting. What differs is the way from the number to the connection: an index
//! and one comparison, a hash, a search.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::time::Instant;

use eagain::slab::{Slab, Token};
use serde::Serialize;

use super::{Failure, shown};
use crate::bench::Spread;
use crate::cli::Compare;

/// As large as what the server keeps of a connection: 14 words.
type Connection = [u64; 14];

const SIZES: [usize; 4] = [100, 1000, 10_000, 100_000];

/// For the memory of small tables, as many of them are made as have so many connections together: it is counted in
/// pages.
const COUNTED_TOGETHER: usize = 20_000;

trait Table: Default {
    const NAME: &'static str;
    fn insert(&mut self, connection: Connection) -> u64;
    fn find(&mut self, number: u64) -> Option<&mut Connection>;
    fn remove(&mut self, number: u64) -> Option<Connection>;
}

#[derive(Default)]
struct BySlab(Slab<Connection>);

impl Table for BySlab {
    const NAME: &'static str = "slab";

    fn insert(&mut self, connection: Connection) -> u64 {
        self.0.insert(connection).map_or(u64::MAX, Token::to_bits)
    }

    fn find(&mut self, number: u64) -> Option<&mut Connection> {
        self.0.get_mut(Token::from_bits(number))
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        self.0.remove(Token::from_bits(number))
    }
}

/// A map, and the next number.
#[derive(Default)]
struct Counted<M>(M, u64);

macro_rules! table_of_map {
    ($map:ident) => {
        impl Table for Counted<$map<u64, Connection>> {
            const NAME: &'static str = stringify!($map);

            fn insert(&mut self, connection: Connection) -> u64 {
                self.1 += 1;
                self.0.insert(self.1, connection);
                self.1
            }

            fn find(&mut self, number: u64) -> Option<&mut Connection> {
                self.0.get_mut(&number)
            }

            fn remove(&mut self, number: u64) -> Option<Connection> {
                self.0.remove(&number)
            }
        }
    };
}

table_of_map!(HashMap);
table_of_map!(BTreeMap);

/// Nanoseconds for one operation.
#[derive(Debug, Serialize)]
struct Row {
    connections: usize,
    table: &'static str,
    insert_ns: Spread,
    lookup_ns: Spread,
    remove_ns: Spread,
    /// Twenty lookups, then one goes and another comes: for one of these 22.
    mix_ns: Spread,
    bytes_per_connection: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Tables {
    schema: u32,
    compared: &'static str,
    connection_bytes: usize,
    repetitions: usize,
    rows: Vec<Row>,
}

/// Tables of any kind, so that their memory is not given back.
type Kept = Vec<Box<dyn Any>>;

/// A kind of table, and what is done with it.
struct Kind {
    name: &'static str,
    weigh: fn(usize, &mut Kept) -> Result<u64, Failure>,
    time: fn(usize, usize, u64) -> [f64; 4],
}

impl Kind {
    const fn of<T: Table + 'static>() -> Self {
        Self { name: T::NAME, weigh: weigh::<T>, time: time::<T> }
    }
}

const KINDS: [Kind; 3] =
    [Kind::of::<BySlab>(), Kind::of::<Counted<HashMap<_, _>>>(), Kind::of::<Counted<BTreeMap<_, _>>>()];

pub(super) fn compare(options: &Compare) -> Result<Tables, Failure> {
    let repetitions = options.repeat.unwrap_or(if options.quick { 5 } else { 9 });
    let operations = if options.quick { 100_000 } else { 1_000_000 };
    // Memory first, and nothing is given back meanwhile: what is free already would hide what is taken.
    let (mut weights, mut kept) = (Vec::new(), Vec::new());
    for connections in SIZES {
        for kind in KINDS {
            weights.push((connections, (kind.weigh)(connections, &mut kept)?));
        }
    }
    drop(kept);
    let mut rows = Vec::new();
    for ((connections, bytes_per_connection), kind) in weights.into_iter().zip(KINDS.iter().cycle()) {
        let mut samples: [Vec<f64>; 4] = Default::default();
        for seed in 1..=repetitions as u64 {
            let times = (kind.time)(connections, operations, seed);
            samples.iter_mut().zip(times).for_each(|(samples, time)| samples.push(time));
        }
        let spread = |column: usize| Spread::of(&samples[column]).ok_or("no repetition");
        rows.push(Row {
            connections,
            table: kind.name,
            insert_ns: spread(0)?,
            lookup_ns: spread(1)?,
            remove_ns: spread(2)?,
            mix_ns: spread(3)?,
            bytes_per_connection,
        });
    }
    Ok(Tables { schema: 1, compared: "tables", connection_bytes: size_of::<Connection>(), repetitions, rows })
}

/// The memory of a table, by its connections. It is kept.
fn weigh<T: Table + 'static>(connections: usize, kept: &mut Kept) -> Result<u64, Failure> {
    let copies = (COUNTED_TOGETHER / connections).max(1);
    let before = resident_bytes()?;
    let mut tables: Vec<T> = (0..copies).map(|_| T::default()).collect();
    for table in &mut tables {
        (0..connections).for_each(|number| _ = table.insert([number as u64; 14]));
    }
    let taken = resident_bytes()?.saturating_sub(before);
    kept.push(Box::new(tables));
    Ok(taken / (copies * connections) as u64)
}

/// Memory of this process, exact: what `/proc/self/statm` says may lag behind (proc_pid_smaps(5)).
fn resident_bytes() -> Result<u64, Failure> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).ok_or("smaps_rollup has no Rss")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Nanoseconds of an insert, a lookup, a remove, and one of the mix.
fn time<T: Table>(connections: usize, operations: usize, seed: u64) -> [f64; 4] {
    let mut random = Random(seed);
    let rounds = (operations / 10 / connections).max(1);
    let (mut inserting, mut removing) = (0.0, 0.0);
    let mut table = T::default();
    let mut live = Vec::with_capacity(connections);
    for _ in 0..rounds {
        for number in live.drain(..) {
            table.remove(number);
        }
        inserting += nanos(|| live.extend((0..connections).map(|number| table.insert([number as u64; 14]))));
        random.shuffle(&mut live);
        removing += nanos(|| live.iter().for_each(|&number| _ = black_box(table.remove(number))));
        live.clear();
    }
    // Filled by those that came and went, as a table is that has served for a while.
    live.extend((0..connections).map(|number| table.insert([number as u64; 14])));
    random.shuffle(&mut live);
    let wanted: Vec<u64> = (0..operations).map(|_| live[random.below(connections)]).collect();
    let looking_up = nanos(|| wanted.iter().for_each(|&number| touch(&mut table, number)));
    let mixes = operations / 22;
    let mixing = nanos(|| {
        for _ in 0..mixes {
            for _ in 0..20 {
                touch(&mut table, live[random.below(connections)]);
            }
            let leaves = random.below(connections);
            table.remove(live[leaves]);
            live[leaves] = table.insert([leaves as u64; 14]);
        }
    });
    let all = (rounds * connections) as f64;
    [inserting / all, looking_up / operations as f64, removing / all, mixing / (mixes * 22) as f64]
}

/// What an event does at least.
fn touch(table: &mut impl Table, number: u64) {
    if let Some(connection) = table.find(number) {
        connection[3] = connection[3].wrapping_add(1);
    }
}

fn nanos(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64
}

/// splitmix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // The high half of the product is even over the bound, without a division.
        ((u128::from(mixed ^ (mixed >> 31)) * bound as u128) >> 64) as usize
    }

    fn shuffle(&mut self, numbers: &mut [u64]) {
        for last in (1..numbers.len()).rev() {
            numbers.swap(last, self.below(last + 1));
        }
    }
}

impl Tables {
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "Nanoseconds for one operation, median (least-most) of {}; a connection of {} bytes.\n\
             mix: 20 lookups, then one goes and another comes.\n\n\
             {:>11}  {:<8}  {:<18}  {:<18}  {:<18}  {:<18}  {:>16}\n",
            self.repetitions,
            self.connection_bytes,
            "connections",
            "table",
            "insert",
            "lookup",
            "remove",
            "mix",
            "bytes/connection"
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "{:>11}  {:<8}  {:<18}  {:<18}  {:<18}  {:<18}  {:>16}",
                row.connections,
                row.table,
                shown(&row.insert_ns),
                shown(&row.lookup_ns),
                shown(&row.remove_ns),
                shown(&row.mix_ns),
                row.bytes_per_connection
            );
        }
        text
    }
}
