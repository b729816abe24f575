// Package archtest holds the walls of docs/ARCHITECTURE.md, the measures of the code and the rules
// for its words, as tests: they print the chain of imports, the place or the word that breaks a
// rule. What is known to break one is in testdata/exceptions.txt. The package has no code of its
// own.
package archtest
