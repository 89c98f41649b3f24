//! The command line in the syntax of a shell's `getopts`.

/// What the flags say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// `-f`.
    pub subnet_file: String,
    /// `-d`.
    pub output: String,
    /// `-k`.
    pub key: String,
    /// Write a variable for each option.
    pub individual: bool,
    /// Write the combined variable.
    pub combined: bool,
    /// Not `-m`.
    pub ip_masq: bool,
}

impl Options {
    /// Reads flags up to the first word that is none; what follows is ignored. The error is a complaint, or empty if
    /// help was asked for.
    pub(super) fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self {
            subnet_file: "/run/flannel/subnet.env".to_owned(),
            output: "/run/docker_opts.env".to_owned(),
            key: "DOCKER_OPTS".to_owned(),
            individual: false,
            combined: false,
            ip_masq: true,
        };
        let mut words = args.iter();
        while let Some(cluster) = words.next().and_then(|word| word.strip_prefix('-')).filter(|c| !c.is_empty()) {
            if cluster == "-" {
                break;
            }
            options.cluster(cluster, &mut words)?;
        }
        if !options.individual && !options.combined {
            (options.individual, options.combined) = (true, true);
        }
        Ok(options)
    }

    /// Flags that share one dash: the value of the last may be the rest of the word, or the next one.
    fn cluster<'a>(&mut self, cluster: &str, words: &mut impl Iterator<Item = &'a String>) -> Result<(), String> {
        for (at, flag) in cluster.char_indices() {
            match flag {
                'i' => self.individual = true,
                'c' => self.combined = true,
                'm' => self.ip_masq = false,
                'f' | 'd' | 'k' => {
                    let rest = &cluster[at + 1..];
                    let value = if rest.is_empty() { words.next().cloned() } else { Some(rest.to_owned()) };
                    let value = value.ok_or_else(|| format!("-{flag} needs a value\n\n"))?;
                    match flag {
                        'f' => self.subnet_file = value,
                        'd' => self.output = value,
                        _ => self.key = value,
                    }
                    return Ok(());
                }
                'h' | '?' => return Err(String::new()),
                other => return Err(format!("unknown option -{other}\n\n")),
            }
        }
        Ok(())
    }
}
