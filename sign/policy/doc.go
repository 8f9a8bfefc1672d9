// Package policy decides which images may be used, by who has signed them.
//
//	p, err := policy.Load("/etc/hpcimg/policy.toml", nil)
//	...
//	decision, err := p.CheckFile(ctx, file, offset, size)
//
// A policy is a list of rules; the first that applies to where an image is, or to the repository that it comes from, decides. What no
// rule applies to falls to the default rule. [Default] is the policy without a file: everything is run, and what is unsigned is named.
//
// # The file
//
//	version = 1
//	keyrings = ["site.asc"]           # OpenPGP keys; names are relative to the file
//	public_keys = ["site.pub"]        # PEM, for DSSE and cosign
//
//	[default]                         # what no rule applies to
//	mode = "open"
//	unsigned = "warn"
//
//	[[rule]]
//	name = "site software"
//	paths = ["/apps/images"]          # everything below these directories
//	mode = "whitelist"
//	signers = ["0C5B8C9A…", "sha256:…"]
//
//	[[rule]]
//	repositories = ["registry.site.example/apps"]
//	mode = "signed"
//
// The modes: "open" looks at no signature, and only whether there is one; "signed" wants every object covered by a key of the policy;
// "whitelist" wants one of signers to have signed all of it, "strict" each of them; "blacklist" refuses what any of them has signed;
// "deny" refuses everything. A signature by a key of the policy that does not hold is refused in all modes that look. unsigned says what
// happens without a signature by a key of the policy: "allow", "warn" or "deny". It is "warn" in open mode and "deny" in others.
//
// Unknown names are errors, so that a misspelt rule does not turn into none. [ReadECL] reads the ecl.toml of Apptainer and
// SingularityCE.
//
// # What is promised
//
// CheckFile looks at an open file. Whoever runs what it accepts has to mount that same open file, at the offset that it was asked about; package
// runtime does (Image.Admit). A file that somebody else can write is refused by modes that look at signatures, because
// it could change after it was looked at; allow_writable lifts that. Paths are compared component by component, after all links are resolved.
//
// A user may copy an image to where another rule applies: the default rule is part of the policy.
//
// # Errors
//
// [*DeniedError] says what was refused by which rule, and wraps why; errors.Is(err, [ErrDenied]) holds. [ErrSyntax] is matched by errors of the file.
package policy
