//! What an app remembers of a socket while it lives.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use heartline_core::presence::SocketAddress;

type Values = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

/// Values as JSON, by their names.
pub(crate) type Texts = BTreeMap<String, String>;

/// What [`Socket::remember`](crate::Socket::remember) keeps of one socket, bytes of names and
/// JSON: as much as of a user's checkpoint. All of it is in each file of the journal, and in a
/// cluster in what is written down of the socket in Redis, where it is JSON within JSON: a
/// quotation mark takes two bytes there, and a control character in a name six.
pub(crate) const MAX_REMEMBERED: usize = 4_096;

/// The bytes of names and JSON.
pub(crate) fn size_of(texts: &Texts) -> usize {
    let sizes = texts.iter().map(|(name, text)| name.len() + text.len());
    sizes.sum()
}

/// Values of one socket, one of each type: what `socket.data` is on Node. They go with the
/// socket, after its disconnect handlers have begun, and stay for one that may come back, as long
/// as this process lives: [`Socket::remember`](crate::Socket::remember) is for longer. A socket
/// whose app keeps nothing costs nothing.
///
/// ```
/// # use heartline::Socket;
/// # struct Score(std::sync::atomic::AtomicU32);
/// # fn handler(socket: &Socket) {
/// let score = socket.data().get_or_insert_with(|| Score(0.into()));
/// score.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
/// # }
/// ```
#[derive(Clone, Default)]
pub struct SocketData(Arc<Inside>);

#[derive(Default)]
struct Inside {
    values: Mutex<Values>,
    texts: Mutex<Texts>,
    /// The texts have changed, and will be written down for other nodes.
    is_due: AtomicBool,
}

impl SocketData {
    fn values(&self) -> std::sync::MutexGuard<'_, Values> {
        let values = self.0.values.lock();
        values.unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier process has remembered.
    pub(crate) fn of(texts: Texts) -> SocketData {
        let data = SocketData::default();
        *data.remembered() = texts;
        data
    }

    /// What is remembered as JSON.
    pub(crate) fn remembered(&self) -> std::sync::MutexGuard<'_, Texts> {
        let texts = self.0.texts.lock();
        texts.unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, as it is written down for other nodes now.
    pub(crate) fn to_write(&self) -> Texts {
        let texts = self.remembered();
        self.0.is_due.store(false, Ordering::Relaxed);
        texts.clone()
    }

    /// Remembers a text, or forgets what had its name; `note` is called while nobody else does.
    /// True: this is the first change since all was [written down](Self::to_write).
    ///
    /// # Errors
    /// The bytes of all, which would be more than [`MAX_REMEMBERED`].
    pub(crate) fn remember(
        &self,
        name: &str,
        text: Option<&str>,
        note: impl FnOnce(),
    ) -> Result<bool, usize> {
        let mut texts = self.remembered();
        let before = texts.get(name).map_or(0, |text| name.len() + text.len());
        let size = size_of(&texts) - before + text.map_or(0, |text| name.len() + text.len());
        if text.is_some() && size > MAX_REMEMBERED {
            return Err(size);
        }
        match text {
            Some(text) => drop(texts.insert(name.to_owned(), text.to_owned())),
            None => drop(texts.remove(name)),
        }
        note();
        Ok(!self.0.is_due.swap(true, Ordering::Relaxed))
    }

    /// Keeps a value; the one of this type that was there before.
    pub fn insert<T: Send + Sync + 'static>(&self, value: T) -> Option<Arc<T>> {
        let before = self.values().insert(TypeId::of::<T>(), Arc::new(value));
        before.and_then(|before| before.downcast().ok())
    }

    /// The value of this type.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let found = self.values().get(&TypeId::of::<T>()).cloned();
        found.and_then(|found| found.downcast().ok())
    }

    /// The value of this type; if there is none, one that is made and kept. Of several that
    /// are made at once, the first is kept.
    pub fn get_or_insert_with<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(found) = self.get() {
            return found;
        }
        // Without the lock: it may ask for data of the same socket.
        let made: Arc<dyn Any + Send + Sync> = Arc::new(make());
        let kept = self
            .values()
            .entry(TypeId::of::<T>())
            .or_insert_with(|| made.clone())
            .clone();
        kept.downcast().expect("a value is kept under its own type")
    }

    /// Takes the value of this type away.
    pub fn remove<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let before = self.values().remove(&TypeId::of::<T>());
        before.and_then(|before| before.downcast().ok())
    }
}

impl std::fmt::Debug for SocketData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SocketData({} values)", self.values().len())
    }
}

/// Sockets and their data.
type Table = HashMap<SocketAddress, SocketData>;

/// Into how many parts they are divided, by where the sockets are.
const PARTS: usize = 64;

/// The data of all sockets that have some.
pub(crate) struct AllData([Mutex<Table>; PARTS]);

impl Default for AllData {
    fn default() -> AllData {
        AllData(std::array::from_fn(|_| Mutex::default()))
    }
}

impl AllData {
    fn table(&self, socket: &SocketAddress) -> std::sync::MutexGuard<'_, Table> {
        let part = socket.0.conn.slot.index() % PARTS;
        self.0[part].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many parts there are.
    pub(crate) const fn parts() -> usize {
        PARTS
    }

    /// A living socket's data.
    pub(crate) fn of(&self, socket: SocketAddress) -> SocketData {
        self.table(&socket).entry(socket).or_default().clone()
    }

    /// A socket's data, if it has some.
    pub(crate) fn find(&self, socket: &SocketAddress) -> Option<SocketData> {
        self.table(socket).get(socket).cloned()
    }

    /// A socket goes on with the data of an earlier one.
    pub(crate) fn put(&self, socket: SocketAddress, data: SocketData) {
        let before = self.table(&socket).insert(socket, data);
        // Without the lock: what is dropped may ask for data.
        drop(before);
    }

    /// Drops the data of sockets that are `gone`, in one part: of handlers that asked for it too
    /// late. How many sockets were looked at.
    pub(crate) fn forget_in(&self, part: usize, gone: impl Fn(&SocketAddress) -> bool) -> usize {
        let Some(part) = self.0.get(part) else {
            return 0;
        };
        let mut table = part.lock().unwrap_or_else(PoisonError::into_inner);
        let looked_at = table.len();
        let forgotten: Vec<_> = table.extract_if(|socket, _| gone(socket)).collect();
        drop(table);
        // Without the lock: what is dropped may ask for data.
        drop(forgotten);
        looked_at
    }

    /// The data of a socket that ends; nobody finds it here any more.
    pub(crate) fn take(&self, socket: &SocketAddress) -> Option<SocketData> {
        let mut table = self.table(socket);
        let taken = table.remove(socket);
        if table.is_empty() {
            table.shrink_to_fit();
        }
        taken
    }
}
