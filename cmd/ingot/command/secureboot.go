package command

import "github.com/spf13/cobra"

// SecureBoot holds the flags that name the key and certificate that a UKI is signed with.
type SecureBoot struct{ Key, Certificate string }

// Add adds the flags to a command.
func (f *SecureBoot) Add(c *cobra.Command) {
	c.Flags().StringVar(&f.Key, "secure-boot-key", "", "private key (PEM) that signs the UKI for Secure Boot")
	c.Flags().StringVar(&f.Certificate, "secure-boot-cert", "",
		"certificate (PEM) of that key, enrolled in the machines' firmware")
	c.MarkFlagsRequiredTogether("secure-boot-key", "secure-boot-cert")
}

// Given reports whether the flags were given.
func (f *SecureBoot) Given() bool { return f.Key != "" }
