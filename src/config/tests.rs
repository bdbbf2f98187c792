use super::*;

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(
        text,
        Path::new("/i/etc/zeoraid.yaml"),
        Path::new("/i"),
        &|_| None,
    )
}

const SMALL: &str = "arrays: {main: {members: {a: {file: var/a/Data.fs}}}}";

#[test]
fn a_small_configuration_is_completed_by_defaults() {
    let config = read(SMALL).unwrap();
    assert_eq!(config.listen[0].to_string(), "127.0.0.1:8100");
    assert_eq!(config.arrays[0].aliases, ["1"]);
}
