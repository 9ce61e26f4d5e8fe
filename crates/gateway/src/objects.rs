//! What clients say is read by the names of its members, and never by their places.
//!
//! serde's derived structs are content with a list: `["a",true]` would be a `{ room, members }`. Nobody
//! says that it is one, and a member that is added or moved would change what it means. So a
//! struct, also one deep inside, is read from an object here; lists, tuples and tuple structs
//! are as they were. What serde reads first and gives its kind afterwards (untagged enums,
//! `flatten`, tags inside) does not pass through here.

use std::fmt;

use serde::Deserialize;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

/// Reads a value from JSON.
pub(crate) fn read<'de, T: Deserialize<'de>>(json: &'de str) -> Result<T, serde_json::Error> {
    read_as(json, false)
}

/// Reads arguments from a JSON array: a struct may stand for the list itself, as a tuple may.
pub(crate) fn read_list<'de, T: Deserialize<'de>>(json: &'de str) -> Result<T, serde_json::Error> {
    read_as(json, true)
}

fn read_as<'de, T: Deserialize<'de>>(
    json: &'de str,
    is_list: bool,
) -> Result<T, serde_json::Error> {
    let mut text = serde_json::Deserializer::from_str(json);
    let inner = &mut text;
    let value = T::deserialize(Named { inner, is_list })?;
    text.end()?;
    Ok(value)
}

/// What stands between serde and its data: its deserializers, visitors and accesses.
struct Named<T> {
    inner: T,
    /// A struct here may be a list.
    is_list: bool,
}

impl<T> Named<T> {
    fn strict(inner: T) -> Self {
        Named {
            inner,
            is_list: false,
        }
    }

    fn of_list(inner: T) -> Self {
        Named {
            inner,
            is_list: true,
        }
    }
}

/// Hands a question on to the deserializer, and its answer through [`Named`].
macro_rules! asks {
    ($($method:ident($($name:ident: $kind:ty),*);)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($name: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($name,)* Named::of_list(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Named<D> {
    type Error = D::Error;

    asks! {
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = Named {
            inner: visitor,
            is_list: self.is_list,
        };
        self.inner.deserialize_struct(name, fields, visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Hands what was found on to who asked.
macro_rules! finds {
    ($($method:ident: $kind:ty;)*) => {
        $(fn $method<E: de::Error>(self, value: $kind) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Named<V> {
    type Value = V::Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(to)
    }

    finds! {
        visit_bool: bool;
        visit_i8: i8;
        visit_i16: i16;
        visit_i32: i32;
        visit_i64: i64;
        visit_i128: i128;
        visit_u8: u8;
        visit_u16: u16;
        visit_u32: u32;
        visit_u64: u64;
        visit_u128: u128;
        visit_f32: f32;
        visit_f64: f64;
        visit_char: char;
        visit_str: &str;
        visit_borrowed_str: &'de str;
        visit_string: String;
        visit_bytes: &[u8];
        visit_borrowed_bytes: &'de [u8];
        visit_byte_buf: Vec<u8>;
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Named::strict(value))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Named::strict(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        match self.is_list {
            true => self.inner.visit_seq(Named::strict(list)),
            false => Err(de::Error::invalid_type(Unexpected::Seq, &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Named::strict(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Named::strict(data))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Named<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Named::strict(value))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Named<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(Named::strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Named<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(Named::strict(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Named::strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Named<A> {
    type Error = A::Error;
    type Variant = Named<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Named<A::Variant>), A::Error> {
        let (name, variant) = self.inner.variant_seed(Named::strict(seed))?;
        Ok((name, Named::strict(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Named<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(Named::strict(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, Named::of_list(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, Named::strict(visitor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Point {
        x: u8,
        #[serde(default)]
        y: Option<i64>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Pair(u8, String);

    #[derive(Debug, PartialEq, Deserialize)]
    enum Shape {
        Nothing,
        One(Point),
        Two(u8, u8),
        Box { at: Point },
    }

    fn refused<'de, T: Deserialize<'de> + fmt::Debug>(json: &'de str) {
        assert!(serde_json::from_str::<T>(json).is_ok(), "{json}");
        let why = read::<T>(json).unwrap_err().to_string();
        assert!(why.contains("invalid type: sequence"), "{json}: {why}");
        let said = heartline_core::misfit::in_words(&why);
        assert!(said.ends_with("expected an object"), "{said}");
    }

    #[test]
    fn a_struct_is_no_list_however_deep_it_is() {
        refused::<Point>("[1,2]");
        refused::<Option<Point>>("[1,null]");
        refused::<Vec<Point>>("[{\"x\":1},[1,2]]");
        refused::<BTreeMap<String, Point>>(r#"{"a":[1,2]}"#);
        refused::<(u8, Point)>("[1,[1,2]]");
        refused::<Shape>(r#"{"One":[1,2]}"#);
        refused::<Shape>(r#"{"Box":{"at":[1,2]}}"#);
        let json = r#"{"Box":[{"x":1}]}"#;
        assert!(serde_json::from_str::<Shape>(json).is_ok());
        assert!(read::<Shape>(json).is_err());
    }

    #[test]
    fn everything_else_is_read_as_it_was() {
        fn same<'de, T: Deserialize<'de> + PartialEq + fmt::Debug>(json: &'de str) {
            let was = serde_json::from_str::<T>(json).map_err(|error| error.to_string());
            let is = read::<T>(json).map_err(|error| error.to_string());
            assert_eq!(is, was, "{json}");
        }
        same::<Point>(r#"{"x":1,"y":-2,"z":[3]}"#);
        same::<Point>(r#"{"x":1,"y":null}"#);
        same::<Point>(r#"{"x":300}"#);
        same::<Point>(r#"{"x":1} 2"#);
        same::<Point>("7");
        same::<Pair>(r#"[1,"a\u00e9"]"#);
        same::<(bool, f64, char, String)>(r#"[true,1.5,"c","s"]"#);
        same::<Option<Vec<Pair>>>(r#"[[1,"a"]]"#);
        same::<Vec<Shape>>(r#"["Nothing",{"One":{"x":1}},{"Two":[1,2]},{"Box":{"at":{"x":1}}}]"#);
        same::<serde_json::Value>(r#"{"a":[1,-1,1.5,null,{"b":"c"}],"a":"twice"}"#);
        same::<BTreeMap<String, u128>>(r#"{"a":340282366920938463463374607431768211455}"#);
        same::<&str>(r#""borrowed""#);
        same::<std::time::Duration>(r#"{"secs":1,"nanos":2}"#);
    }

    #[test]
    fn raw_json_comes_as_it_was_written() {
        #[derive(Deserialize)]
        struct Data<'a> {
            #[serde(borrow)]
            data: Option<&'a RawValue>,
        }
        let read: Data<'_> = read(r#"{"data":[1, {"a":  2}]}"#).unwrap();
        assert_eq!(read.data.map(RawValue::get), Some(r#"[1, {"a":  2}]"#));
    }

    #[test]
    fn arguments_are_a_list_and_their_structs_are_not() {
        assert_eq!(
            read_list::<Point>("[1,2]").unwrap(),
            Point { x: 1, y: Some(2) }
        );
        assert!(read_list::<(Point,)>("[[1,2]]").is_err());
    }
}
