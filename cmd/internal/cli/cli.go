package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/daemon"
)

// version is set by the linker.
var version = "dev"

// Server is a process package's server. It may also have Ready() error,
// Reload() error, and Admin() map[string]http.Handler: what the admin listener
// serves for it, by path.
type Server interface {
	Run(ctx context.Context) error
	Close() error
}

// Env is what a server is made from.
type Env struct {
	Config   *config.Config
	Bus      bus.Bus
	Logger   *slog.Logger
	Registry *prometheus.Registry
}

// Program is what is special about one of the four.
type Program struct {
	Kind  string // "proxy": the first part of instance names, and the section
	Short string // one line of help
	// Flags adds flags of its own, Commands commands. May be nil.
	Flags    func(*Flags)
	Commands func(load func() (*config.Config, error)) []*cobra.Command
	// New makes the server.
	New func(Env) (Server, error)
	// Check looks for mistakes that the configuration's types do not show, and
	// returns them and what should be known. May be nil.
	Check func(*config.Config) (warnings []string, err error)
	// Runtime is the program's tuning, and Admin the spec of its admin listener.
	Runtime func(*config.Config) (config.Runtime, string)
	// Pushpin is where Pushpin's metrics are wanted, and the prefix of their
	// names. May be nil.
	Pushpin func(*config.Config) (spec, prefix string)
	// Grace limits stopping.
	Grace func(*config.Config) time.Duration
	// Files is how many open files the program needs. May be nil.
	Files func(*config.Config) uint64
}

// UsageError marks a mistake of the user: wrong flags or configuration.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// PlainError is told as it is, without the program's name before it.
type PlainError struct{ Err error }

func (e PlainError) Error() string { return e.Err.Error() }
func (e PlainError) Unwrap() error { return e.Err }

// Main runs a program and exits.
func Main(p Program) {
	os.Exit(Run(p, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// Run is Main without the exit.
func Run(p Program, args, env []string, stdout, stderr io.Writer) int {
	root := newRoot(p, env)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return daemon.ExitOK
	}
	var plain PlainError
	if errors.As(err, &plain) {
		_, _ = fmt.Fprintln(stderr, plain)
		return daemon.ExitError
	}
	for line := range strings.Lines(err.Error()) {
		_, _ = fmt.Fprintf(stderr, "%s: %s\n", p.Kind, strings.TrimSuffix(line, "\n"))
	}
	var usage UsageError
	if errors.As(err, &usage) {
		return daemon.ExitUsage
	}
	return daemon.ExitError
}

// common are the flags of all programs.
type common struct {
	file, name       string
	logfile, logName string
	readyFile        string
	env, set         []string
}

func newRoot(p Program, env []string) *cobra.Command {
	c := &common{env: env}
	root := &cobra.Command{
		Use:   p.Kind,
		Short: p.Short,
		Long: p.Short + "\n\nIt is one of Holdfast's four processes; the script holdfast starts them all. Settings come from the\n" +
			"flags, the environment (HOLDFAST_SECTION_KEY) and the configuration file, in this order.",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), p, cfg, c)
		},
	}
	root.SetContext(context.Background())
	root.SetVersionTemplate("holdfast {{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return UsageError{fmt.Errorf("%w (--help shows the flags)", err)}
	})
	root.CompletionOptions.HiddenDefaultCmd = true

	f := &Flags{FlagSet: root.PersistentFlags()}
	f.StringVar(&c.file, "config", "", "configuration file")
	f.StringArrayVar(&c.set, "set", nil, "set `SECTION.KEY=VALUE`; may be repeated")
	f.StringVar(&c.name, "name", p.Kind+".0", "name of this instance on the bus")
	f.StringVar(&c.logfile, "logfile", "", "append the log to this file instead of writing it to the standard output")
	f.StringVar(&c.readyFile, "ready-file", "", "create this file when the process does its work")
	f.StringVar(&c.logName, "log-name", "", "put `NAME` into each line of the log, for logs that several processes write to")
	f.Setting("loglevel", "runner.log_level", "`LEVEL`: 0 error, 1 warn, 2 info, 3 debug, 4 trace")
	f.Setting("ipc-prefix", "global.ipc_prefix", "`PREFIX` of socket names")
	verbose := f.Bool("verbose", false, "same as --loglevel 3")
	if p.Flags != nil {
		p.Flags(f)
	}
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		// Named flags come before --set, so that the last word is the user's.
		named := f.settings()
		if *verbose {
			named = append(named, "runner.log_level=3")
		}
		c.set = append(named, c.set...)
		if bus.Kind(c.name) != p.Kind {
			return UsageError{fmt.Errorf("--name %q: want %s. and a number, such as %s.0", c.name, p.Kind, p.Kind)}
		}
		return nil
	}
	root.AddCommand(
		&cobra.Command{
			Use: "version", Short: "Show the version", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "holdfast %s %s\n", p.Kind, version)
				return err
			},
		},
		&cobra.Command{
			Use: "checkconfig", Short: "Read the configuration and tell about every mistake in it", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.check(p, cmd.OutOrStdout()) },
		},
		&cobra.Command{
			Use: "printconfig [file | SECTION.KEY]...", Short: "Show the settings in effect and where they come from, or just some values",
			RunE: func(cmd *cobra.Command, args []string) error { return c.print(args, cmd.OutOrStdout()) },
		},
		&cobra.Command{
			Use: "defaultconfig", Short: "Write a configuration file with all settings and their defaults", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := io.WriteString(cmd.OutOrStdout(), config.Example())
				return err
			},
		},
	)
	if p.Commands != nil {
		root.AddCommand(p.Commands(c.load)...)
	}
	wrapArgs(root)
	return root
}

// wrapArgs makes wrong arguments of a command, and of those below it, a mistake of
// the user.
func wrapArgs(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		wrapArgs(sub)
	}
	check := cmd.Args
	if check == nil {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return UsageError{fmt.Errorf("%w (%s --help shows how)", err, cmd.CommandPath())}
		}
		return nil
	}
}

// Flags are a program's flags.
type Flags struct {
	*pflag.FlagSet
	mappings []mapping
}

// mapping says how a flag is written as a setting.
type mapping struct {
	flag string
	to   func(string) string
}

// Setting adds a flag that sets a key of the configuration.
func (f *Flags) Setting(flag, key, usage string) {
	f.String(flag, "", usage)
	f.mappings = append(f.mappings, mapping{flag, func(v string) string { return key + "=" + v }})
}

// settings returns the named flags that were given, as settings.
func (f *Flags) settings() []string {
	var all []string
	for _, m := range f.mappings {
		if flag := f.Lookup(m.flag); flag.Changed {
			all = append(all, m.to(flag.Value.String()))
		}
	}
	return all
}

func (c *common) load() (*config.Config, error) {
	cfg, err := config.Load(config.Source{File: c.file, Env: c.env, Set: c.set, Name: c.name})
	if err != nil {
		return nil, UsageError{err}
	}
	return cfg, nil
}

func (c *common) check(p Program, w io.Writer) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, n := range cfg.Notices {
		if n.Kind != config.NotActedOn {
			fmt.Fprintf(&b, "%s: %v\n", n.Kind, n)
		}
	}
	for _, u := range cfg.Unused(nil) {
		fmt.Fprintf(&b, "%s: %v\n", config.NotActedOn, u)
	}
	if p.Check != nil {
		warnings, err := p.Check(cfg)
		for _, text := range warnings {
			fmt.Fprintf(&b, "warning: %s\n", text)
		}
		if err != nil {
			_, _ = io.WriteString(w, b.String())
			return UsageError{err}
		}
	}
	file := cfg.File
	if file == "" {
		file = "no configuration file; the defaults hold"
	}
	fmt.Fprintf(&b, "%s: ok\n", file)
	_, err = io.WriteString(w, b.String())
	return err
}

func (c *common) print(keys []string, w io.Writer) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	var b strings.Builder
	all := cfg.Settings()
	byName := map[string]config.Setting{"file": {Value: cfg.File}}
	for _, s := range all {
		byName[s.Name] = s
		if len(keys) > 0 {
			continue
		}
		if s.Secret && s.Value != "" {
			s.Value = "(secret)"
		}
		if s.Origin == "" {
			s.Origin = "default"
		}
		fmt.Fprintf(&b, "%s=%s\t; %s\n", s.Name, s.Value, s.Origin)
	}
	for _, key := range keys {
		s, ok := byName[key]
		if !ok {
			return UsageError{fmt.Errorf("there is no setting %q", key)}
		}
		fmt.Fprintln(&b, s.Value)
	}
	_, err = io.WriteString(w, b.String())
	return err
}
