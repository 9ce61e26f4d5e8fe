//! The namespaces of a gateway, by number and by name.

use std::sync::Arc;

use crate::policy::NamespaceConfig;

/// Number of a namespace in its gateway's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId(pub u16);

impl NamespaceId {
    /// `/`, the only namespace of live connections.
    pub const ROOT: NamespaceId = NamespaceId(0);
}

/// A namespace that exists.
#[derive(Debug)]
pub struct Namespace {
    /// As in `namespaces."/chat"`; `/` for live connections.
    pub name: Arc<str>,
    /// What it allows.
    pub config: NamespaceConfig,
}

/// All namespaces, `/` first.
#[derive(Debug)]
pub struct Namespaces(Vec<Namespace>);

impl Namespaces {
    /// `/` must be among them.
    pub fn new<'a>(configs: impl IntoIterator<Item = (&'a String, &'a NamespaceConfig)>) -> Self {
        let mut namespaces: Vec<Namespace> = configs
            .into_iter()
            .map(|(name, config)| Namespace {
                name: name.as_str().into(),
                config: config.clone(),
            })
            .collect();
        namespaces.sort_by_key(|namespace| &*namespace.name != "/");
        Namespaces(namespaces)
    }

    /// The namespace of this number, which this list has given out.
    pub fn get(&self, id: NamespaceId) -> &Namespace {
        &self.0[usize::from(id.0)]
    }

    /// The number of the namespace of this name.
    pub fn find(&self, name: &str) -> Option<NamespaceId> {
        self.iter()
            .find(|(_, namespace)| *namespace.name == *name)
            .map(|(id, _)| id)
    }

    /// All with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (NamespaceId, &Namespace)> {
        (0..).map(NamespaceId).zip(&self.0)
    }
}
