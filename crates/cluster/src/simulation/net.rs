//! What lies between the nodes of a simulation: they ask each other whether they live.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heartline_core::backplane::Probed;
use tokio::time::sleep;

use super::dice::Dice;
use super::store::locked;
use crate::member::Prober;
use crate::registry::NodeInfo;

/// After how long a packet that was lost is sent again, the first time.
const AGAIN: Duration = Duration::from_millis(200);

/// What a process does with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    Answers,
    /// Its questions wait.
    Stopped,
}

/// All processes, by their tags; whoever is not there is dead.
pub(super) struct Net {
    pub(super) processes: BTreeMap<u32, Process>,
    /// Who does not reach whom.
    pub(super) cuts: BTreeSet<(u32, u32)>,
    /// `cluster.failure_timeout` of nodes that start.
    pub(super) failure: Option<Duration>,
    /// Packets that are lost, among a hundred.
    pub(super) loss: u64,
    pub(super) dice: Dice,
}

impl Net {
    pub(super) fn new(failure: Option<Duration>, dice: Dice) -> Arc<Mutex<Net>> {
        Arc::new(Mutex::new(Net {
            processes: BTreeMap::new(),
            cuts: BTreeSet::new(),
            failure,
            loss: 0,
            dice,
        }))
    }

    /// How long a packet takes; the longer, the more often it is lost.
    fn way(&mut self) -> Duration {
        let mut way = Duration::from_millis(1 + self.dice.below(4));
        let mut again = AGAIN;
        while self.dice.chance(self.loss) {
            way += again;
            again *= 2;
        }
        way
    }
}

/// One node's ways to the others.
#[derive(Clone)]
pub(super) struct Ways {
    pub(super) net: Arc<Mutex<Net>>,
    pub(super) own: u32,
}

impl Prober for Ways {
    fn probe(&self, node: NodeInfo, _: Arc<str>) -> impl Future<Output = Probed> + Send + 'static {
        let Ways { net, own } = self.clone();
        async move {
            let (there, back) = {
                let mut net = locked(&net);
                (net.way(), net.way())
            };
            sleep(there).await;
            loop {
                let (process, is_cut) = {
                    let net = locked(&net);
                    let process = net.processes.get(&node.tag).copied();
                    (process, net.cuts.contains(&(own, node.tag)))
                };
                match process {
                    _ if is_cut => std::future::pending::<()>().await,
                    None => {
                        sleep(back).await;
                        return Probed::Refused;
                    }
                    Some(Process::Answers) => {
                        sleep(back).await;
                        return Probed::Answered;
                    }
                    Some(Process::Stopped) => sleep(Duration::from_millis(10)).await,
                }
            }
        }
    }
}
