//! From text to an OCI profile, with the field at fault in every error.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ProfileError;

/// The longest text of a profile, in bytes. Docker's default has 15 thousand.
pub const MAX_TEXT: usize = 2 << 20;

/// Reads a profile as Kubernetes' Localhost profiles are written.
///
/// # Errors
/// [`ProfileError`], which names the field unless the text is no JSON at all.
pub fn read_profile(text: &[u8]) -> Result<LinuxSeccomp, ProfileError> {
    if text.len() > MAX_TEXT {
        return Err(ProfileError::TooLarge { length: text.len() });
    }
    serde_json::from_slice(text).map_err(|error| match serde_json::from_slice(text) {
        Ok(profile) => fault(&profile).unwrap_or(ProfileError::Json(error)),
        Err(error) => ProfileError::Json(error),
    })
}

/// The first field of a profile that is not what it has to be; `None` if each for itself is.
pub fn fault(profile: &Value) -> Option<ProfileError> {
    check(profile).err()
}

fn check(profile: &Value) -> Result<(), ProfileError> {
    object("", profile)?;
    required::<LinuxSeccompAction>("", profile, "defaultAction")?;
    optional::<u32>("", profile, "defaultErrnoRet")?;
    optional::<String>("", profile, "listenerPath")?;
    optional::<String>("", profile, "listenerMetadata")?;
    for (place, arch) in list("", profile, "architectures")? {
        leaf::<Arch>(&place, arch)?;
    }
    for (place, flag) in list("", profile, "flags")? {
        leaf::<LinuxSeccompFilterFlag>(&place, flag)?;
    }
    for (place, rule) in list("", profile, "syscalls")? {
        object(&place, rule)?;
        for (place, name) in list(&place, rule, "names")? {
            leaf::<String>(&place, name)?;
        }
        required::<LinuxSeccompAction>(&place, rule, "action")?;
        optional::<u32>(&place, rule, "errnoRet")?;
        for (place, arg) in list(&place, rule, "args")? {
            object(&place, arg)?;
            required::<usize>(&place, arg, "index")?;
            required::<u64>(&place, arg, "value")?;
            optional::<u64>(&place, arg, "valueTwo")?;
            required::<LinuxSeccompOperator>(&place, arg, "op")?;
        }
        leaf::<LinuxSyscall>(&place, rule)?;
    }
    Ok(())
}

fn malformed(field: &str, reason: impl ToString) -> ProfileError {
    let field = if field.is_empty() { String::new() } else { format!(".{field}") };
    ProfileError::Malformed { field, reason: reason.to_string() }
}

fn below(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

fn object(place: &str, value: &Value) -> Result<(), ProfileError> {
    if value.is_object() { Ok(()) } else { Err(malformed(place, "it is not an object")) }
}

fn leaf<T: DeserializeOwned>(place: &str, value: &Value) -> Result<(), ProfileError> {
    T::deserialize(value).map(drop).map_err(|error| malformed(place, error))
}

fn required<T: DeserializeOwned>(place: &str, object: &Value, name: &str) -> Result<(), ProfileError> {
    match object.get(name) {
        Some(value) => leaf::<T>(&below(place, name), value),
        None => Err(malformed(&below(place, name), "it is missing")),
    }
}

fn optional<T: DeserializeOwned>(place: &str, object: &Value, name: &str) -> Result<(), ProfileError> {
    object.get(name).map_or(Ok(()), |value| leaf::<Option<T>>(&below(place, name), value))
}

/// The elements of a list, each with its place.
fn list<'v>(place: &str, object: &'v Value, name: &str) -> Result<Vec<(String, &'v Value)>, ProfileError> {
    let place = below(place, name);
    match object.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => {
            Ok(values.iter().enumerate().map(|(index, value)| (format!("{place}[{index}]"), value)).collect())
        }
        Some(_) => Err(malformed(&place, "it is not a list")),
    }
}
